"""Named entities: F1 of whole entities, by seqeval's definition (which is conlleval's), micro-averaged.

Values are [predicted tags, [expected tags]], tags separated by blanks: `B-PER I-PER O`. An entity counts if its type
and both its ends are right. Tags that a scheme doesn't allow are read leniently: `I-X` after `O` begins an entity.
"""

from __future__ import annotations

from collections.abc import Sequence

Values = Sequence[tuple[str, Sequence[str]]]
Entity = tuple[int, str, int, int]  # sentence, type, first and last tag


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


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Type, first and last index of each entity."""
    found, start = [], 0
    before, kind_before = "O", ""
    for index, each in enumerate([*tags, "O"]):
        tag, kind = each[:1] or "O", each[1:].split("-", maxsplit=1)[-1] or "_"
        changes = kind != kind_before
        if before in "ES" or (before in "BI" and (tag in "BSO" or changes)) or (before not in "O." and changes):
            found.append((kind_before, start, index - 1))
        if tag in "BS" or (before in "ESO" and tag in "EI") or (tag not in "O." and changes):
            start = index
        before, kind_before = tag, kind
    return found


def _count(values: Values) -> tuple[int, int, int]:
    predicted: set[Entity] = set()
    expected: set[Entity] = set()
    for number, (tags, (wanted, *_)) in enumerate(values):
        right = wanted.split()
        padded = (tags.split() + ["O"] * len(right))[: len(right)]  # a model may say too many or too few
        predicted |= {(number, *entity) for entity in entity_spans(padded)}
        expected |= {(number, *entity) for entity in entity_spans(right)}
    return len(predicted & expected), len(predicted), len(expected)
