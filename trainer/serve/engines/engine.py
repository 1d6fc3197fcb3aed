"""What computes answers: the seam. One more engine is one more file here and a row in choose.py.

An engine is loaded from a Hugging Face folder and given ids, which trainer's own tokenizer made: those of training.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class EngineBusy(Exception):
    """More requests wait than may."""


@dataclass(frozen=True)
class Ask:
    """One answer to compute. `ends` are tokens that end it, not given out; `top` is how many alternatives are wanted.

    `logprobs`: whether log-probabilities are wanted at all. `seed` None: any. `started` is called when it has a slot.
    """

    ids: list[int]
    max_tokens: int
    ends: frozenset[int]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: bool = False
    top: int = 0
    started: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class TokenInfo:
    """One token of an answer: its log-probability before temperature and cuts, and those of the likeliest.

    None where the engine doesn't tell it.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer that ends with a whole character; `end` is "stop" or "length" in the last one."""

    text: str
    tokens: tuple[TokenInfo, ...] = ()
    end: str | None = None


class Engine(Protocol):
    """A loaded model. All but the constructor may be called from the event loop, of which none is held up."""

    name: str
    precision: str

    def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        """An answer as it comes; the last piece has an `end`. Left before its end, it is cancelled and its slot free.

        EngineBusy where too many wait.
        """
        ...

    def running(self) -> int:
        """Answers that are computed at the moment."""
        ...

    def waiting(self) -> int:
        """Answers that wait for a slot."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is opened with."""

    folder: Path
    precision: str
    context: int
    slots: int
    waiting: int
    threads: int
