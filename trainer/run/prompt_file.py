"""A file of prompts, JSON lines: each line is checked before the first is answered, and read again when it is due.

{"prompt": "text to continue"}
{"messages": [{"role": "user", "content": "…"}], "tools": […]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from trainer.data.examples.faults import ExampleFault
from trainer.data.examples.messages import check_turns
from trainer.errors import InputError
from trainer.run.speaker import Speaker

ANSWER, ANSWER_TOKENS, ANSWER_ENDED = "answer", "answer_tokens", "answer_ended"
MOST_BYTES = 2**26  # of a line


@dataclass(frozen=True)
class Prompt:
    """A line of the file: its fields, its ids, and the tokens that end an answer to it."""

    record: dict[str, Any]
    ids: list[int]
    ends: frozenset[int]


@dataclass(frozen=True)
class PromptFile:
    """Prompts at `path`, for a model."""

    path: Path
    speaker: Speaker

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Where each prompt's line begins, in bytes, and how many ids it has. InputError names a bad line."""
        return [(offset, len(prompt.ids)) for offset, prompt in self._all()]

    @cached_property
    def hash(self) -> str:
        """xxh3 of the file."""
        digest = xxhash.xxh3_128()
        with self.path.open("rb") as file:
            while content := file.read(2**20):
                digest.update(content)
        return digest.hexdigest()

    @property
    def longest_first(self) -> list[int]:
        """The numbers of the prompts, those of like lengths together."""
        return sorted(range(len(self.places)), key=lambda number: (-self.places[number][1], number))

    def read(self, number: int) -> Prompt:
        """A prompt."""
        with self.path.open("rb") as file:
            file.seek(self.places[number][0])
            return self._prompt(number, file.readline())

    def _all(self) -> Iterator[tuple[int, Prompt]]:
        try:
            with self.path.open("rb") as file:
                number = offset = 0
                while line := file.readline(MOST_BYTES):
                    if line.strip():
                        yield offset, self._prompt(number, line)
                        number += 1
                    offset += len(line)
        except OSError as error:
            raise InputError(f"prompts={self.path}: can't be read ({error.strerror}).") from error

    def _prompt(self, number: int, line: bytes) -> Prompt:
        place = f"{self.path}, record {number + 1}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: is not JSON; mend it.") from error
        if not isinstance(record, dict):
            raise InputError(f"{place}: is no JSON object; mend it.")
        taken = next((name for name in (ANSWER, ANSWER_TOKENS, ANSWER_ENDED) if name in record), None)
        if taken:
            raise InputError(f"{place}: has a field {taken} already, which the answer would overwrite; rename it.")
        try:
            return Prompt(record, *self._ids(record))
        except (ExampleFault, InputError) as fault:
            raise InputError(f"{place}: {str(fault).rstrip('.')}; mend it.") from fault

    def _ids(self, record: dict[str, Any]) -> tuple[list[int], frozenset[int]]:
        speaker = self.speaker
        if isinstance(record.get("prompt"), str):
            ids = speaker.prompt_ids(record["prompt"])
            if len(ids) > speaker.context_length:
                raise InputError(f"{len(ids):,} tokens, but the model sees {speaker.context_length:,} at most")
            return ids, speaker.ends
        if not _is_chat(record.get("messages")):
            raise InputError('has neither a text "prompt" nor "messages" with role and content')
        check_turns(record["messages"])
        tools = record["tools"] if isinstance(record.get("tools"), list) else None
        return speaker.chat_ids(record["messages"], tools), speaker.chat_ends


def _is_chat(messages: Any) -> bool:
    return isinstance(messages, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in messages
    )
