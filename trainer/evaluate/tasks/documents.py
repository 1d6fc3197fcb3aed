"""A task of our own: documents, what is asked of each, and how their answers are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.evaluate.metrics.bootstrap import interval, resampled, standard_error
from trainer.evaluate.metrics.metric import METRICS
from trainer.evaluate.tasks.request import Answer, Completion, Likelihood, Request, fingerprint_of
from trainer.evaluate.tasks.store import AnswerStore
from trainer.evaluate.tasks.task import Measured, TaskOutcome

CHOICE, GENERATE, LOSS, CODE = "choice", "generate", "loss", "code"
KINDS = (CHOICE, GENERATE, LOSS, CODE)
SLOW_RESAMPLES = 100  # of a figure that takes a pass over the corpus, as in lm-evaluation-harness


@dataclass(frozen=True)
class Choice:
    """A continuation of a context; `name` is what length normalisation measures: the choice without its delimiter."""

    context: str
    continuation: str
    name: str


@dataclass(frozen=True)
class TaskDocument:
    """What is asked of one record: the likelihood of `choices`, of which `gold` is right, or a text, of `wanted`."""

    number: int
    prompt: str = ""
    choices: list[Choice] = field(default_factory=list)
    gold: int = 0
    unconditional: list[Choice] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    shown: str = ""  # what an example has after its prompt


@dataclass(frozen=True)
class DocumentTask:
    """The task set of one task file."""

    name: str
    version: str
    kind: str
    asked: list[str]  # metrics
    documents: list[TaskDocument]
    until: tuple[str, ...] = ()
    max_tokens: int = 64
    total: int = 0  # documents that there are, of which `documents` may be the first

    def described(self) -> list[str]:
        """Says that documents are left out."""
        if self.total <= len(self.documents):
            return []
        return [
            f"{self.name}: the first {len(self.documents):,} of {self.total:,} documents (evaluate.task_documents=0 "
            "takes all)"
        ]

    def metrics(self) -> dict[str, bool]:
        """Whether higher is better, of each."""
        return {f"{self.name}/{metric}": METRICS[metric].higher_is_better for metric in self.asked}

    def requests(self) -> list[tuple[str, Request]]:
        """Each document's, in order."""
        return [(self.name, request) for document in self.documents for request in self._requests(document)]

    def _requests(self, document: TaskDocument) -> list[Request]:
        if self.kind == GENERATE:
            return [Completion(document.prompt, self.until, self.max_tokens)]
        asked = [document.choices[document.gold]] if self.kind == LOSS else document.choices
        if "acc_mutual_info" in self.asked:
            asked = asked + (document.unconditional or [Choice("", each.continuation, "") for each in asked])
        return [Likelihood(choice.context, choice.continuation) for choice in asked]

    def judge(
        self, answers: Sequence[Answer], *, resamples: int, store: AnswerStore | None = None
    ) -> list[TaskOutcome]:
        """The result, from the answers to `requests`."""
        waiting = iter(answers)
        samples = []
        for document in self.documents:
            requests = self._requests(document)
            own = [next(waiting) for _ in requests]
            values = self._values(document, own)
            sample: dict[str, Any] = {"task": self.name, "doc_id": document.number}
            if self.kind == GENERATE:
                sample |= {"prompt": document.prompt, "target": document.wanted, "answer": own[0]}
            else:
                sample |= {"requests": [list(_shown(request)) for request in requests], "target": document.gold}
                sample |= {"answers": [list(answer) for answer in own]}  # type: ignore[arg-type]
                if self.kind == CHOICE:
                    sample["choice"] = int(np.argmax([answer[0] for answer in own[: len(document.choices)]]))  # type: ignore[index]
            samples.append(sample | {"metrics": {name: values[name] for name in self.asked}})
        measured = [
            self._measure(name, [sample["metrics"][name] for sample in samples], resamples) for name in self.asked
        ]
        fingerprint = fingerprint_of(request for _, request in self.requests())
        return [TaskOutcome(self.name, self.version, len(self.documents), fingerprint, measured, samples)]

    def _values(self, document: TaskDocument, own: list[Any]) -> dict[str, Any]:
        if self.kind == GENERATE:
            return generated_values(own[0], document.wanted)
        if self.kind == LOSS:
            return _loss_values(own[0][0], document.choices[document.gold].continuation)
        return choice_values(document, own)

    def _measure(self, name: str, values: list[Any], resamples: int) -> Measured:
        metric = METRICS[name]
        figure = metric.aggregate(values)
        stderr = standard_error(values) if metric.kind == "value" and resamples else None
        low = high = None
        if resamples and len(values) > 1 and not isinstance(figure, list | dict):
            draws = min(resamples, SLOW_RESAMPLES) if metric.slow else resamples
            aggregate: Callable[[Sequence[Any]], Any] | None = None if metric.kind == "value" else metric.aggregate
            figures = resampled(values, aggregate, draws)
            low, high = interval(figures)
            stderr = float(figures.std(ddof=1)) if stderr is None and len(values) > 1 else stderr
        return Measured(name, figure, stderr, low, high, metric.higher_is_better)


def choice_values(document: TaskDocument, own: list[tuple[float, bool]]) -> dict[str, Any]:
    """A document's value for each metric of choices, as lm-evaluation-harness reckons them; ties take the first."""
    count = len(document.choices)
    likelihoods = np.array([likelihood for likelihood, _ in own[:count]])
    names = [choice.name for choice in document.choices]
    lengths = np.array([float(len(name)) for name in names])
    sizes = np.array([float(len(name.encode())) for name in names])
    best, gold = int(np.argmax(likelihoods)), document.gold
    shifted = np.exp(likelihoods - likelihoods.max())
    probabilities = shifted / shifted.sum()
    values: dict[str, Any] = {
        "acc": float(best == gold),
        "acc_norm": float(int(np.argmax(likelihoods / lengths)) == gold),
        "acc_bytes": float(int(np.argmax(likelihoods / sizes)) == gold),
        "exact_match": float(own[gold][1]),
        "stereotype_preferred": float(best == gold),  # of pairs, whose first is the stereotype's
        "likelihood_gap": float(likelihoods[gold] - max(np.delete(likelihoods, gold))),
        "calibration_error": [float(probabilities[best]), best == gold],
    }
    if len(own) == 2 * count:
        without = np.array([likelihood for likelihood, _ in own[count:]])
        values["acc_mutual_info"] = float(int(np.argmax(likelihoods - without)) == gold)
    for name, metric in METRICS.items():
        if metric.kind == "labels":
            values[name] = [gold, best]
    return values | _loss_values(float(likelihoods[gold]), document.choices[gold].continuation)


def generated_values(answer: str, wanted: list[str]) -> dict[str, Any]:
    """A document's value for each metric of texts."""
    plain = answer.strip()
    values: dict[str, Any] = {"exact_match": float(any(plain == each.strip() for each in wanted))}
    for name, metric in METRICS.items():
        if metric.kind == "texts":
            values[name] = [plain, wanted]
        elif metric.kind == "labels":
            values[name] = [wanted[0].strip(), plain]
    return values


def _loss_values(likelihood: float, text: str) -> dict[str, Any]:
    words = max(1, len(text.split()))
    by_bytes = [likelihood, len(text.encode())]
    return {
        "bits_per_byte": by_bytes,
        "mean_bits_per_byte": by_bytes,
        "byte_perplexity": by_bytes,
        "word_perplexity": [likelihood, words],
    }


def _shown(request: Request) -> tuple[str, str]:
    assert isinstance(request, Likelihood)
    return request.context, request.continuation


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, of which a mean can be taken."""
    return isinstance(value, int | float) and math.isfinite(value)
