"""Named entities among tagged tokens, and how far they are those of a gold set: conlleval's rules, as seqeval has them.

An entity is right if its type, its first token and its last one are. What a tag can't go on with begins a new entity:
I-LOC behind B-PER, or behind O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OUTSIDE = "O"  # a token that belongs to no entity
LETTERS = ("B", "I", "E", "S")
UNNAMED = "_"  # the type of a tag that is a letter alone

Entity = tuple[str, int, int]  # type, first and last token


@dataclass(frozen=True)
class EntityScore:
    """One type of entities, or all; `support` is how many the gold set has."""

    type: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class EntityScores:
    """All entities together (micro), the mean over types (macro), and each type."""

    micro: EntityScore
    macro_f1: float
    types: tuple[EntityScore, ...]


def are_entities(tags: Iterable[str]) -> bool:
    """Whether tags are those of entities: O, and letters of IOB, BIO or IOBES before a type."""
    return all(tag == OUTSIDE or tag in LETTERS or tag[:2] in {f"{letter}-" for letter in LETTERS} for tag in tags)


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sequence of tags, as seqeval's get_entities finds them in tags of any kind.

    The type is what comes after the first `-`; of a tag without one, all but its first letter. A letter that no scheme
    knows is inside its type.
    """
    found: list[Entity] = []
    before, type_before, first = OUTSIDE, "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        letter, type_ = tag[:1] or OUTSIDE, tag[1:].split("-", maxsplit=1)[-1] or UNNAMED
        other = type_ != type_before
        if before in "ES" or (before in "BI" and letter in "BSO") or (before not in "O." and other):
            found.append((type_before, first, place - 1))
        if letter in "BS" or (before in "ESO" and letter in "EI") or (letter not in "O." and other):
            first = place
        before, type_before = letter, type_
    return found


def score_entities(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> EntityScores:
    """Scores of (gold tags, given tags) of each sequence; 0 where nothing is there to be right."""
    right, gold, given = Counter[str](), Counter[str](), Counter[str]()
    for truth, tags in pairs:
        wanted, found = set(entities_of(truth)), set(entities_of(tags))
        gold.update(type_ for type_, _, _ in wanted)
        given.update(type_ for type_, _, _ in found)
        right.update(type_ for type_, _, _ in wanted & found)
    types = tuple(_score(name, right[name], gold[name], given[name]) for name in sorted({*gold, *given}))
    micro = _score("all", right.total(), gold.total(), given.total())
    return EntityScores(micro, sum(each.f1 for each in types) / len(types) if types else 0.0, types)


def _score(name: str, right: int, gold: int, given: int) -> EntityScore:
    precision, recall = right / given if given else 0.0, right / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return EntityScore(name, precision, recall, f1, gold)
