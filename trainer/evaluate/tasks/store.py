"""What was computed, kept as it is computed: a process that is killed loses the batch it was at, and nothing else.

answers/            a file for each rank of each start, one line appended for each batch of rows or prompts
answers/*.jsonl     {"batch": hash of what was asked, "values": [[loss, misses], …] or [text, …]}
model.json          whose answers they are: those of another model are refused
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import ConfigError, InputError
from trainer.machine.durable import make_folder, storage_errors, sync, write_json
from trainer.machine.json_file import Malformed, read_json

MODEL = "model.json"
BATCH, VALUES = "batch", "values"


class AnswerStore:
    """The answers of one model, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "answers"
        self._model = folder / MODEL
        self._file: BinaryIO | None = None

    def begin(self, model: dict[str, Any], key: str) -> None:
        """Says whose answers they are. ConfigError names `key` where they are another model's. Rank 0 calls it."""
        if self._model.exists():
            try:
                found = read_json(self._model)
            except (OSError, Malformed) as error:
                raise InputError(f"{self._model}: can't be read ({error}); remove the folder.") from error
            if not isinstance(found, dict) or {**found, "name": model["name"]} != model:  # wherever it lies now
                other = found.get("name") if isinstance(found, dict) else found
                raise ConfigError(f"{key}: holds answers of another model ({other}); choose another folder.")
        elif self._folder.exists():
            raise InputError(
                f"{self._model}: missing, so that it isn't known whose answers these are; remove the folder."
            )
        try:
            make_folder(self._model.parent)
        except FileNotFoundError as error:
            raise ConfigError(f"{key}: the folder can't be made there ({error.strerror}); choose another.") from error
        write_json(self._model, model)
        make_folder(self._folder)

    def read(self) -> dict[str, list[Any]]:
        """Values by batch; a line that was cut short is none."""
        found: dict[str, list[Any]] = {}
        for part in sorted(self._folder.glob("*.jsonl")):
            with part.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        continue
                    try:
                        record = json.loads(line)
                        found[record[BATCH]] = record[VALUES]
                    except (ValueError, KeyError, TypeError) as error:
                        raise InputError(f"{part}: a line isn't an answer; remove the file.") from error
        return found

    def append(self, batch: str, values: list[Any]) -> None:
        """Keeps a batch's values, durably."""
        with storage_errors(self._folder):
            if self._file is None:
                part = self._folder / f"{uuid.uuid4().hex}.jsonl"
                self._file = part.open("xb")
                sync(self._folder)
            self._file.write(json.dumps({BATCH: batch, VALUES: values}).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
