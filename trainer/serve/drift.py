"""Drift (serve.drift): bits per byte that the model gives what it is asked, by language, as histograms and no text.

bits per byte = −log₂ p(ids 1 … n−1 | ids 0 … i−1) / bytes of the prompt's text in UTF-8, the measure of
`banyan evaluate`: where it rises, people ask for what the model wasn't trained on.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.data.clean.identify import identify, language_model

BUCKETS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)  # bits per byte
FEWEST_BYTES = 16  # of a prompt that says anything
LEAST_SURE = 0.5  # probability of a language that is named; others are "und"
WAITING = 64  # prompts that may wait to be measured; more are counted as skipped
CHARACTERS = 2000


@dataclass
class Drift:
    """Measures prompts behind the answers' back, one at a time, by `score`.

    score: ids -> summed −ln p of all ids but the first, in nats.
    """

    score: Callable[[Sequence[int]], float]
    registry: Any  # prometheus_client's
    model_name: str
    _queue: queue.Queue[tuple[str, list[int]] | None] = field(default_factory=lambda: queue.Queue(WAITING))

    def __post_init__(self) -> None:
        from prometheus_client import Counter, Histogram

        self._bits = Histogram(
            "banyan:prompt_bits_per_byte",
            "Bits per byte of prompts under the model, by language.",
            ("model_name", "language"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._skipped = Counter(
            "banyan:prompts_not_measured",
            "Prompts of which no bits per byte were measured, by reason.",
            ("model_name", "reason"),
            registry=self.registry,
        )
        self._thread = threading.Thread(target=self._work, name="drift", daemon=True)
        self._thread.start()

    def note(self, text: str, ids: Sequence[int]) -> None:
        """Takes a prompt to measure later; never waits."""
        if len(text.encode("utf-8", "replace")) < FEWEST_BYTES or len(ids) < 2:
            self._skip("short")
            return
        try:
            self._queue.put_nowait((text, list(ids)))
        except queue.Full:
            self._skip("busy")

    def close(self) -> None:
        """Ends its thread; what waits is let go."""
        while True:
            try:
                self._queue.put_nowait(None)
                break
            except queue.Full:
                self._queue.get_nowait()
        self._thread.join(5)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            text, ids = item
            try:
                bits = self.score(ids) / math.log(2) / len(text.encode("utf-8", "replace"))
            except Exception:  # of a prompt nobody should learn more than that
                self._skip("failed")
                continue
            self._bits.labels(self.model_name, language_of(text)).observe(bits)

    def _skip(self, reason: str) -> None:
        self._skipped.labels(self.model_name, reason).inc()


def language_of(text: str) -> str:
    """The ISO code of a text's language, "und" where none is likely."""
    language, score = identify(language_model(), text, CHARACTERS)
    return language if score >= LEAST_SURE else "und"
