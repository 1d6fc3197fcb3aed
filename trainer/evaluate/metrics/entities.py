"""Named entities: F1 of whole entities, by seqeval's definition (which is conlleval's), micro-averaged.

Values are [predicted tags, [expected tags]], tags separated by blanks: `B-PER I-PER O`. An entity counts if its type
and both its ends are right (trainer/data/labels/entities.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.labels.entities import Entity, entities_of

Values = Sequence[tuple[str, Sequence[str]]]


def entity_f1(values: Values) -> float:
    """2 · precision · recall / (precision + recall); 0 where there is nothing right."""
    right, predicted, expected = _count(values)
    return 2 * right / (predicted + expected) if right else 0.0


def entity_precision(values: Values) -> float:
    """The share of predicted entities that are right."""
    right, predicted, _ = _count(values)
    return right / predicted if predicted else 0.0


def entity_recall(values: Values) -> float:
    """The share of expected entities that were found."""
    right, _, expected = _count(values)
    return right / expected if expected else 0.0


def _count(values: Values) -> tuple[int, int, int]:
    predicted: set[tuple[int, Entity]] = set()
    expected: set[tuple[int, Entity]] = set()
    for number, (tags, (wanted, *_)) in enumerate(values):
        right = wanted.split()
        padded = (tags.split() + ["O"] * len(right))[: len(right)]  # a model may say too many or too few
        predicted |= {(number, entity) for entity in entities_of(padded)}
        expected |= {(number, entity) for entity in entities_of(right)}
    return len(predicted & expected), len(predicted), len(expected)
