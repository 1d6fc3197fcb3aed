"""What a task asks of a model, in text, and what the model answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import xxhash


@dataclass(frozen=True)
class Likelihood:
    """How likely is `continuation` after `context`? The answer: (log-likelihood in nats, is it the greedy one)."""

    context: str
    continuation: str


@dataclass(frozen=True)
class Rolling:
    """How likely is a whole text, in windows of the model's context? The answer: its log-likelihood in nats."""

    text: str


@dataclass(frozen=True)
class Completion:
    """What follows `prompt`, up to one of the texts in `until`? The answer: text, without that.

    temperature 0 takes the likeliest token, as everything that is to be repeated should.
    """

    prompt: str
    until: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    number: int = 0  # tells the repeats of one request apart, where it is sampled


Request = Likelihood | Rolling | Completion
Answer = tuple[float, bool] | float | str


def fingerprint_of(requests: Iterable[Request]) -> str:
    """Names what was asked: equal where every request is, in order. 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    for request in requests:
        digest.update(json.dumps([type(request).__name__, *asdict(request).values()]).encode() + b"\n")
    return digest.hexdigest()
