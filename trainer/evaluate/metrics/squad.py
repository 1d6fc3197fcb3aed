"""Answers to questions as SQuAD judges them (Rajpurkar et al. 2016; the evaluation script of version 2.0).

Letters are made small, punctuation and the articles a, an, the are dropped. Values are [predicted, [acceptable, …]]; of
several acceptable answers the best counts. Figures are shares, 0 to 1 (the script prints percents).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

Values = Sequence[tuple[str, Sequence[str]]]
ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(values: Values) -> float:
    """The share of answers that equal an acceptable one."""
    return _mean(values, lambda predicted, wanted: float(normalize(predicted) == normalize(wanted)))


def mean_f1(values: Values) -> float:
    """The mean F1 of words."""
    return _mean(values, token_f1)


def normalize(text: str) -> str:
    """What answers are compared by."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def token_f1(predicted: str, wanted: str) -> float:
    """F1 of the words of two answers; where one has none, whether both have none."""
    found, expected = normalize(predicted).split(), normalize(wanted).split()
    if not found or not expected:
        return float(found == expected)
    common = sum((Counter(found) & Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def _mean(values: Values, score: Callable[[str, str], float]) -> float:
    return sum(max(score(predicted, each) for each in wanted) for predicted, wanted in values) / len(values)
