"""Classification, by scikit-learn: accuracy, precision, recall, F1, Matthews' coefficient, the confusion matrix.

Values are [expected, predicted]: numbers of choices, or texts. A class that is never predicted has precision 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trainer.errors import ConfigError

Pairs = Sequence[tuple[Any, Any]]


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
    """Matthews' correlation coefficient, -1 to 1."""
    expected, predicted = zip(*values, strict=True)
    return float(_sklearn().matthews_corrcoef(expected, predicted))


def averaged(name: str, average: str) -> Callable[[Pairs], float | dict[str, float]]:
    """Precision, recall or F1: `micro`, `macro`, or a mapping from each class, `by_class`."""

    def figure(values: Pairs) -> float | dict[str, float]:
        if average == "by_class":
            return {str(label): score for label, score in _scores(name, values).items()}
        expected, predicted = zip(*values, strict=True)
        return float(_function(name)(expected, predicted, average=average, zero_division=0))

    return figure


def confusion_matrix(values: Pairs) -> dict[str, Any]:
    """`matrix[i][j]`: how many of `labels[i]` were predicted as `labels[j]`."""
    expected, predicted = zip(*values, strict=True)
    labels = _labels(values)
    matrix = _sklearn().confusion_matrix(expected, predicted, labels=labels)
    return {"labels": labels, "matrix": matrix.tolist()}


def _scores(name: str, values: Pairs) -> dict[Any, float]:
    expected, predicted = zip(*values, strict=True)
    labels = _labels(values)
    scores = _function(name)(expected, predicted, labels=labels, average=None, zero_division=0)
    return dict(zip(labels, map(float, scores), strict=True))


def _of_two(name: str, values: Pairs) -> float:
    labels = _labels(values)
    if not set(labels) <= {0, 1}:
        raise ConfigError(f"{name}: more classes than 0 and 1; use {name}_macro, {name}_micro or {name}_by_class.")
    expected, predicted = zip(*values, strict=True)
    return float(_function(name)(expected, predicted, zero_division=0))


def _labels(values: Pairs) -> list[Any]:
    return sorted({label for pair in values for label in pair}, key=lambda label: (str(type(label)), label))


def _function(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(_sklearn(), f"{name}_score")
    return function


def _sklearn() -> Any:
    try:
        from sklearn import metrics
    except ImportError:
        raise ConfigError(
            "this metric needs scikit-learn, which isn't installed: pip install 'banyan-train[eval]'."
        ) from None
    return metrics
