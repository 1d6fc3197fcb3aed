"""Answers to a file of prompts, JSON lines: in the order of the prompts, none lost, none twice, whatever is killed.

    answers.jsonl             what there will be: each prompt's fields, and its answer; appears when it is whole
    answers.jsonl.made.json   from which prompts and model, and how: other settings are refused
    answers.jsonl.parts/      a file for each rank of each start, one line appended for each answer

A start answers what no part has, dealt out over its ranks, so their number may change. Each prompt has a seed of its
own, so that an answer depends neither on others nor on where the work was interrupted.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from trainer.data.tokens.order import derive_key
from trainer.errors import ConfigError, InputError
from trainer.evaluate.batch_sampling import Continuation, continue_together
from trainer.evaluate.sampling import Sampling
from trainer.machine.durable import make_folder, replacing, storage_errors, sync, write_json
from trainer.machine.json_file import Malformed, read_json
from trainer.run.prompt_file import ANSWER, ANSWER_ENDED, ANSWER_TOKENS, PromptFile

NUMBER, LINE = "number", "line"


@dataclass(frozen=True)
class AnswerFile:
    """The answers at `path`."""

    path: Path

    @property
    def _parts(self) -> Path:
        return self.path.with_name(f"{self.path.name}.parts")

    @property
    def _made(self) -> Path:
        return self.path.with_name(f"{self.path.name}.made.json")

    def begin(self, prompts: PromptFile, sampling: Sampling) -> bool:
        """Says how answers are made, or refuses what was made otherwise; whether they are whole. Rank 0 calls it."""
        wanted = {
            "prompts": {"path": str(prompts.path.absolute()), "records": len(prompts.places), "xxh3": prompts.hash},
            "model": prompts.speaker.described,
            "sampling": asdict(sampling),
            "chat_template": prompts.speaker.tokenizer.chat_template,
        }
        if not self._made.exists():
            if os.path.lexists(self.path):
                raise InputError(f"output={self.path}: something is there; remove it or choose another file.")
            make_folder(self._parts)
            write_json(self._made, wanted)
            return False
        try:
            found = read_json(self._made)
        except (OSError, Malformed) as error:
            raise InputError(f"{self._made}: can't be read ({error}); remove it and the answers.") from error
        _require_same(found, wanted, self.path)
        if self.path.exists():
            shutil.rmtree(self._parts, ignore_errors=True)
            return True
        make_folder(self._parts)
        return False

    def answered(self) -> set[int]:
        """The numbers of the prompts that some part answers."""
        return {number for number, _ in self._found()}

    def answer(self, prompts: PromptFile, numbers: list[int], sampling: Sampling, batch_size: int) -> None:
        """Answers these prompts, `batch_size` at a time, into a part of this process's own."""
        if not numbers:
            return
        speaker = prompts.speaker
        part = self._parts / f"{uuid.uuid4().hex}.jsonl"
        with storage_errors(part), part.open("xb") as out:
            sync(part.parent)
            for first in range(0, len(numbers), batch_size):
                batch = {number: prompts.read(number) for number in numbers[first : first + batch_size]}
                rows = {
                    number: Continuation(prompt.ids, prompt.ends, _seeded(sampling, number))
                    for number, prompt in batch.items()
                }
                continue_together(speaker.model, list(rows.values()), context_length=speaker.context_length)
                for number, row in rows.items():
                    text = "".join(speaker.decoded(row.prompt, row.tokens))
                    answer = {ANSWER: text, ANSWER_TOKENS: len(row.tokens), ANSWER_ENDED: row.ended}
                    _append(out, {NUMBER: number, LINE: batch[number].record | answer})
                os.fsync(out.fileno())

    def finish(self, count: int) -> None:
        """Joins the parts, in the order of the prompts. Rank 0 calls it when every rank is through."""
        places: dict[int, tuple[Path, int]] = {}
        for number, place in self._found():
            places.setdefault(number, place)
        if len(places) != count:
            raise InputError(f"{self._parts}: {len(places):,} of {count:,} answers; run the same command again.")
        with replacing(self.path) as out:
            for number in range(count):
                part, offset = places[number]
                with part.open("rb") as file:
                    file.seek(offset)
                    _append(out, json.loads(file.readline())[LINE])
        shutil.rmtree(self._parts, ignore_errors=True)

    def _found(self) -> Iterator[tuple[int, tuple[Path, int]]]:
        """The number of each answer, and where its line begins; a line that was cut short is none."""
        for part in sorted(self._parts.glob("*.jsonl")):
            with part.open("rb") as file:
                offset = 0
                for line in file:
                    if line.endswith(b"\n"):
                        try:
                            yield json.loads(line)[NUMBER], (part, offset)
                        except (ValueError, KeyError, TypeError) as error:
                            raise InputError(f"{part}: a line isn't an answer; remove the file.") from error
                    offset += len(line)


def _append(out: BinaryIO, record: dict[str, Any]) -> None:
    # half a surrogate pair, which JSON can spell, is written as it was
    text = json.dumps(record, ensure_ascii=False)
    out.write((text if _is_text(text) else json.dumps(record)).encode() + b"\n")


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _seeded(sampling: Sampling, number: int) -> Sampling:
    return replace(sampling, seed=derive_key("prompt", sampling.seed, number) >> 1)


def _require_same(found: Any, wanted: dict[str, Any], output: Path) -> None:
    """ConfigError that names the first setting by which the answers that are there were made otherwise."""
    for key, value in _flat(wanted).items():
        before = _flat(found if isinstance(found, dict) else {}).get(key)
        if before != value:
            raise ConfigError(
                f"output={output}: begun with other settings ({key}: {str(before)[:80]} → {str(value)[:80]}): choose "
                "another file, or remove this one and those beside it."
            )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{key}" if key else section: value
        for section, inside in values.items()
        for key, value in (inside.items() if isinstance(inside, dict) else [("", inside)])
    }
