"""How well labels were predicted: the figures of scikit-learn for texts, of seqeval for entities among words.

F1 of a label is 2·tp / (2·tp + fp + fn), 0 where that is 0 / 0 (zero_division=0).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.labels.entities import OUTSIDE, Entity, entities_of

IGNORED = -100
PREFIXES = ("B-", "I-", "E-", "S-", "L-", "U-")
BILOU = {"L": "E", "U": "S"}  # its letters, as IOBES has them


def has_entities(labels: Sequence[str]) -> bool:
    """Whether labels tag spans of words (IOB and its kin) rather than words."""
    return OUTSIDE in labels and any(label.startswith(PREFIXES) for label in labels)


def label_metrics(labels: Sequence[str], gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Of labels, numbers in `labels`, gold and predicted, of one shape; those that are IGNORED count for nothing.

    precision, recall and f1, each micro, macro and by label ("f1/spam"), as scikit-learn's classification_report over
    the labels that occur in either.
    """
    there = gold != IGNORED
    one, two = gold[there], predicted[there]
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (one, two), 1)
    right, given, wanted = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    occurs = np.flatnonzero(given + wanted)
    names = [labels[number] for number in occurs.tolist()]
    return _figures(names, right[occurs], given[occurs], wanted[occurs])


def entity_metrics(labels: Sequence[str], gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Of entities: spans of words, right where type and both ends are; (rows, time) both. As seqeval's defaults."""
    found: dict[str, np.ndarray] = {}  # by type: right, predicted, gold
    for row, guess in zip(gold, predicted, strict=True):
        there = row != IGNORED
        wanted = entities([labels[number] for number in row[there]])
        given = entities([labels[number] for number in guess[there]])
        for spans, column in ((wanted & given, 0), (given, 1), (wanted, 2)):
            for kind, _, _ in spans:
                found.setdefault(kind, np.zeros(3, np.int64))[column] += 1
    names = sorted(found)
    columns = np.array([found[name] for name in names], np.int64).reshape(len(names), 3).T
    return _figures(names, *columns)


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of a sequence of tags; BILOU's L and U are E and S."""
    return set(entities_of([BILOU.get(tag[:1], tag[:1]) + tag[1:] for tag in tags]))


def _figures(names: Sequence[str], right: np.ndarray, given: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1: micro, macro, and by name."""
    figures = {}
    for figure, top, bottom in (
        ("precision", right, given),
        ("recall", right, wanted),
        ("f1", 2 * right, given + wanted),
    ):
        each = np.divide(top, bottom, out=np.zeros(len(names)), where=bottom > 0)
        figures[f"{figure}_micro"] = float(top.sum() / bottom.sum()) if bottom.sum() else 0.0
        figures[f"{figure}_macro"] = float(each.mean()) if len(names) else 0.0
        figures |= {f"{figure}/{name}": float(value) for name, value in zip(names, each, strict=True)}
    return figures
