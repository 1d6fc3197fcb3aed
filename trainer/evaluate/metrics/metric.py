"""What a metric is, and those there are; one more is a function in a file here and a row of METRICS below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.errors import ConfigError
from trainer.evaluate.metrics import calibration, classification, entities, squad, translation
from trainer.evaluate.metrics.bootstrap import OfSums

Figure = float | list[Any] | dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """`aggregate` turns the documents' values into a figure. `kind` says what a document's value is:

    value       a number, and the figure is their mean
    labels      [expected, predicted], of which the figure is a function: integers, texts
    confidence  [probability of what was predicted, whether that was right]
    texts       [predicted, [acceptable, …]]
    likelihood  [log-likelihood in nats, bytes or words]
    """

    kind: str
    aggregate: Callable[[Sequence[Any]], Figure]
    higher_is_better: bool = True
    slow: bool = False
    """Whether a corpus's figure takes so long that fewer bootstrap resamples are drawn."""


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, summed in order as lm-evaluation-harness does it."""
    return sum(values) / len(values)


# -Σ log-likelihood / (ln 2 · Σ bytes)
corpus_bits_per_byte = OfSums(lambda likelihood, size: -(likelihood / size) / math.log(2))
# exp(-Σ log-likelihood / Σ units)
perplexity_per_unit = OfSums(lambda likelihood, size: np.exp(-(likelihood / size)))


def mean_bits_per_byte(values: Sequence[tuple[float, int]]) -> float:
    """The mean over documents of -log-likelihood / (ln 2 · bytes), as OLMo has it: long answers don't weigh more."""
    return sum(-likelihood / (math.log(2) * size) for likelihood, size in values) / len(values)


METRICS: dict[str, Metric] = {
    "acc": Metric("value", mean),
    "acc_norm": Metric("value", mean),
    "acc_bytes": Metric("value", mean),
    "acc_mutual_info": Metric("value", mean),
    "exact_match": Metric("value", mean),
    "stereotype_preferred": Metric("value", mean, higher_is_better=False),
    "likelihood_gap": Metric("value", mean, higher_is_better=False),
    "squad_exact_match": Metric("texts", squad.exact_match),
    "squad_f1": Metric("texts", squad.mean_f1),
    "accuracy": Metric("labels", classification.accuracy),
    "precision": Metric("labels", classification.precision),
    "recall": Metric("labels", classification.recall),
    "f1": Metric("labels", classification.f1),
    "mcc": Metric("labels", classification.mcc),
    **{
        f"{name}_{average}": Metric("labels", classification.averaged(name, average))
        for name in ("precision", "recall", "f1")
        for average in ("micro", "macro", "by_class")
    },
    "confusion_matrix": Metric("labels", classification.confusion_matrix),
    "calibration_error": Metric("confidence", calibration.expected_error, higher_is_better=False),
    "bleu": Metric("texts", translation.bleu, slow=True),
    "chrf": Metric("texts", translation.chrf, slow=True),
    "rouge1": Metric("texts", translation.rouge("rouge1"), slow=True),
    "rouge2": Metric("texts", translation.rouge("rouge2"), slow=True),
    "rougeL": Metric("texts", translation.rouge("rougeL"), slow=True),
    "entity_f1": Metric("texts", entities.entity_f1),
    "entity_precision": Metric("texts", entities.entity_precision),
    "entity_recall": Metric("texts", entities.entity_recall),
    "bits_per_byte": Metric("likelihood", corpus_bits_per_byte, higher_is_better=False),
    "mean_bits_per_byte": Metric("likelihood", mean_bits_per_byte, higher_is_better=False),
    "byte_perplexity": Metric("likelihood", perplexity_per_unit, higher_is_better=False),
    "word_perplexity": Metric("likelihood", perplexity_per_unit, higher_is_better=False),
}


LOW = ("loss", "perplexity", "brier_score", "ter", "bigram_loss")  # names of others, of which a low one is a good one


def prefers_high(name: str) -> bool:
    """Whether a high figure is a good one, by a metric's name; a filter of lm-evaluation-harness's may follow it."""
    bare = name.partition(",")[0]
    return METRICS[bare].higher_is_better if bare in METRICS else bare not in LOW


def find_metric(name: str, where: str) -> Metric:
    """The metric of that name. ConfigError that says `where` it was asked for."""
    if name in METRICS:
        return METRICS[name]
    from difflib import get_close_matches

    near = get_close_matches(name, METRICS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"{where}: {name}: no such metric; {hint}There are {', '.join(METRICS)}.")
