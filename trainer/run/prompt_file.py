"""A file of prompts answered into another, JSON lines both: what was answered before a restart stays.

A line in is {"prompt": text} or {"messages": […]}; a line out has its number, a hash of it, and the answer. Each prompt
has a seed of its own, so that an answer doesn't depend on the others, nor on where the work was interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from trainer.data.examples.faults import ExampleFault
from trainer.data.examples.messages import check_turns
from trainer.data.tokens.order import derive_key
from trainer.errors import InputError
from trainer.evaluate.sampling import Sampling
from trainer.run.speaker import Speaker


@dataclass(frozen=True)
class PromptFile:
    """Prompts at `path`, answers at `output`."""

    path: Path
    output: Path

    def answer_all(self, speaker: Speaker, sampling: Sampling) -> tuple[int, int]:
        """Answers what isn't answered yet; how many were before, and are now. InputError names a bad line."""
        done = self._finished()
        with self.output.open("ab") as out:
            number = done - 1
            for number, line in self._lines():
                if number < done:
                    continue
                own = replace(sampling, seed=derive_key("prompt", sampling.seed, number) >> 1)
                answer = "".join(self._answer(speaker, number, line, own))
                record = {"number": number, "input": _hash(line), "answer": answer}
                out.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                out.flush()
                os.fsync(out.fileno())
        return done, number + 1

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with self.path.open("rb") as file:
                yield from enumerate(line for line in file if line.strip())
        except OSError as error:
            raise InputError(f"prompts={self.path}: can't be read ({error.strerror}).") from error

    def _answer(self, speaker: Speaker, number: int, line: bytes, sampling: Sampling) -> Iterator[str]:
        place = f"{self.path}, record {number + 1}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: is not JSON; mend it.") from error
        if isinstance(record, dict) and isinstance(record.get("prompt"), str):
            yield from speaker.continue_prompt(record["prompt"], sampling)
            return
        if not isinstance(record, dict) or not _is_chat(record.get("messages")):
            raise InputError(f'{place}: has neither a text "prompt" nor "messages" with role and content; mend it.')
        try:
            check_turns(record["messages"])
            yield from speaker.answer(record["messages"], sampling)
        except ExampleFault as fault:
            raise InputError(f"{place}: {fault}; mend it.") from fault

    def _finished(self) -> int:
        """Answers that are there, of the same prompts; a line that was cut short is removed."""
        if not self.output.exists():
            return 0
        content = self.output.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.output.open("r+b") as file:
                file.truncate(whole)
        answers = content[:whole].splitlines()
        for (number, line), answer in zip(self._lines(), answers, strict=False):
            try:
                found = json.loads(answer)
                same = found["number"] == number and found["input"] == _hash(line)
            except (ValueError, KeyError, TypeError):
                same = False
            if not same:
                raise InputError(
                    f"output={self.output}: line {number + 1} isn't the answer to that of {self.path}; choose another "
                    "file, or remove it."
                )
        return len(answers)


def _is_chat(messages: Any) -> bool:
    return isinstance(messages, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in messages
    )


def _hash(line: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(line.strip())
