"""What /metrics tells Prometheus, by vLLM's names where it has them, so that dashboards for it fit every engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class Metrics:
    """One server's registry. `running` and `waiting` are asked at each scrape."""

    def __init__(self, model_name: str, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry = CollectorRegistry()
        self.model_name = model_name
        ProcessCollector(registry=self.registry)
        label = ("model_name",)
        for name, text, ask in (
            ("vllm:num_requests_running", "Answers that are computed.", running),
            ("vllm:num_requests_waiting", "Answers that wait for a slot.", waiting),
        ):
            Gauge(name, text, label, registry=self.registry).labels(model_name).set_function(ask)

        def counter(name: str, text: str, *more: str) -> Any:
            return Counter(name, text, (*label, *more), registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Any:
            return Histogram(name, text, label, buckets=buckets, registry=self.registry).labels(model_name)

        self._success = counter("vllm:request_success", "Answers that ended, by reason.", "finished_reason")
        self._refused = counter("banyan:requests_refused", "Requests that weren't answered, by status.", "status")
        self._prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts.").labels(model_name)
        self._generation_tokens = counter("vllm:generation_tokens", "Tokens of answers.").labels(model_name)
        self._swaps = counter("banyan:model_swaps", "Models that took another's place.").labels(model_name)
        self._first = histogram("vllm:time_to_first_token_seconds", "From a request to its first token.", SECONDS)
        self._between = histogram("vllm:inter_token_latency_seconds", "Between tokens of an answer.", SECONDS)
        self._whole = histogram("vllm:e2e_request_latency_seconds", "From a request to its end.", SECONDS)
        self._queued = histogram("vllm:request_queue_time_seconds", "From a request to its slot, about.", SECONDS)
        self._asked = histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self._answered = histogram("vllm:request_generation_tokens", "Tokens of an answer.", TOKENS)

    def begin(self, prompt_tokens: int) -> AnswerTiming:
        """An answer begins."""
        self._prompt_tokens.inc(prompt_tokens)
        self._asked.observe(prompt_tokens)
        return AnswerTiming(self)

    def refuse(self, status: int) -> None:
        """A request was refused."""
        self._refused.labels(self.model_name, str(status)).inc()

    def swap(self) -> None:
        """Another model serves."""
        self._swaps.inc()

    def scrape(self) -> bytes:
        """The text that Prometheus reads."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))


@dataclass
class AnswerTiming:
    """One answer's times, by the monotonic clock of this process."""

    metrics: Metrics
    began: float = field(default_factory=time.monotonic)
    last: float | None = None
    tokens: int = 0
    ended: bool = False

    def piece(self, tokens: int) -> None:
        """Some tokens have come."""
        if not tokens:
            return
        now = time.monotonic()
        if self.last is None:
            self.metrics._first.observe(now - self.began)
        else:
            for _ in range(tokens):
                self.metrics._between.observe((now - self.last) / tokens)
        self.last = now
        self.tokens += tokens
        self.metrics._generation_tokens.inc(tokens)

    def started(self) -> None:
        """It has got a slot."""
        self.metrics._queued.observe(time.monotonic() - self.began)

    def end(self, reason: str) -> None:
        """It has ended: by "stop", "length", "abort" of its client, or an "error"."""
        if self.ended:
            return
        self.ended = True
        self.metrics._whole.observe(time.monotonic() - self.began)
        self.metrics._answered.observe(self.tokens)
        self.metrics._success.labels(self.metrics.model_name, reason).inc()
