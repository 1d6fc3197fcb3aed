"""Classification: accuracy, precision, recall, F1, Matthews' coefficient, the confusion matrix; equal to
scikit-learn's.

Values are [expected, predicted]: numbers of choices, or texts. All figures come from counts, so that thousands of
bootstrap resamples take no longer than scikit-learn's one. A class that is never predicted has precision 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainer.errors import ConfigError

Pairs = Sequence[tuple[Any, Any]]
Label = int | str


def accuracy(values: Pairs) -> float:
    """The share that was predicted as expected."""
    return sum(float(expected == predicted) for expected, predicted in values) / len(values)


def precision(values: Pairs) -> float:
    """Of class 1 of two."""
    return _of_two("precision", values)


def recall(values: Pairs) -> float:
    """Of class 1 of two."""
    return _of_two("recall", values)


def f1(values: Pairs) -> float:
    """Of class 1 of two."""
    return _of_two("f1", values)


def mcc(values: Pairs) -> float:
    """Matthews' correlation coefficient, -1 to 1 (Gorodkin 2004 for more than two classes)."""
    _, counts = confusion_counts(values)
    expected, predicted = counts.sum(axis=1, dtype=np.float64), counts.sum(axis=0, dtype=np.float64)
    right, total = np.trace(counts, dtype=np.float64), expected.sum()
    together = right * total - expected @ predicted
    spread = (total**2 - predicted @ predicted) * (total**2 - expected @ expected)
    return float(together / np.sqrt(spread)) if spread else 0.0


def averaged(name: str, average: str) -> Callable[[Pairs], float | dict[str, float]]:
    """Precision, recall or F1: `micro`, `macro`, or a mapping from each class, `by_class`."""

    def figure(values: Pairs) -> float | dict[str, float]:
        labels, counts = confusion_counts(values)
        right, predicted, expected = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
        if average == "micro":
            return float(_score(name, *(part.sum(keepdims=True) for part in (right, predicted, expected)))[0])
        scores = _score(name, right, predicted, expected)
        if average == "macro":
            return float(scores.mean())
        return {str(label): float(score) for label, score in zip(labels, scores, strict=True)}

    return figure


def confusion_matrix(values: Pairs) -> dict[str, Any]:
    """`matrix[i][j]`: how many of `labels[i]` were predicted as `labels[j]`."""
    labels, counts = confusion_counts(values)
    return {"labels": labels, "matrix": counts.tolist()}


def confusion_counts(values: Pairs) -> tuple[list[Label], np.ndarray]:
    """Every label, in order, and the confusion matrix, (labels, labels): expected, predicted."""
    labels = sorted({label for pair in values for label in pair}, key=lambda label: (str(type(label)), label))
    places = {label: place for place, label in enumerate(labels)}
    cells = [places[expected] * len(labels) + places[predicted] for expected, predicted in values]
    return labels, np.bincount(cells, minlength=len(labels) ** 2).reshape(len(labels), len(labels))


def _score(name: str, right: np.ndarray, predicted: np.ndarray, expected: np.ndarray) -> np.ndarray:
    if name == "f1":
        over, under = 2.0 * right, (predicted + expected).astype(np.float64)
    else:
        over, under = right.astype(np.float64), (predicted if name == "precision" else expected).astype(np.float64)
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def _of_two(name: str, values: Pairs) -> float:
    labels, counts = confusion_counts(values)
    if not set(labels) <= {0, 1}:
        raise ConfigError(f"{name}: more classes than 0 and 1; use {name}_macro, {name}_micro or {name}_by_class.")
    if 1 not in labels:
        return 0.0
    place = labels.index(1)
    sums = counts[place, place], counts[:, place].sum(), counts[place].sum()
    return float(_score(name, *(np.array([part]) for part in sums))[0])
