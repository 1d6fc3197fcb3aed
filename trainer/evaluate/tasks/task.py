"""What a task is to the rest: requests, and from their answers a result with every document's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainer.evaluate.metrics.metric import Figure
from trainer.evaluate.tasks.request import Answer, Request
from trainer.evaluate.tasks.store import AnswerStore


@dataclass(frozen=True)
class Measured:
    """A figure of a task; `low` and `high` bound its interval, by the bootstrap."""

    metric: str
    value: Figure
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True


@dataclass(frozen=True)
class TaskOutcome:
    """What came out of a task (or a group of tasks: then there are no samples of its own).

    A sample is a document: `doc_id`, what was asked and answered, and under `metrics` its value for each.
    """

    task: str
    version: str
    documents: int
    fingerprint: str
    measured: list[Measured]
    samples: list[dict[str, Any]] = field(default_factory=list)


class TaskSet(Protocol):
    """One task, or several that are judged together."""

    def described(self) -> list[str]:
        """A line for each thing that isn't as a reader would expect."""

    def requests(self) -> list[tuple[str, Request]]:
        """Everything that is asked, with the name of its task."""

    def judge(
        self, answers: Sequence[Answer], *, resamples: int, store: AnswerStore | None = None
    ) -> list[TaskOutcome]:
        """The results, from an answer for each request. `resamples` of 0: figures alone.

        `store` keeps what judging takes long to find.
        """

    def metrics(self) -> dict[str, bool]:
        """Whether higher is better, of each TASK/METRIC that there will be."""
