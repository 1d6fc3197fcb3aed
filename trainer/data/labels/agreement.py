"""How far annotators agree: Cohen's kappa of two, Fleiss' kappa and Krippendorff's alpha of all.

The coefficients are scikit-learn's, statsmodels' and NLTK's. A unit is an item or, of tags, a token.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from trainer.data.labels.records import LabelFile
from trainer.data.labels.schema import Annotation
from trainer.data.text.libraries import library
from trainer.errors import InputError

MOST_PAIRS = 200  # of annotators: those with the most units in common
DISTANCES = ("nominal", "interval")
PURPOSE = "agreement between annotators"

Unit = tuple[str, int]
"""An item, and the place of a token in it."""


@dataclass(frozen=True)
class PairAgreement:
    """Two annotators over the units that both labelled; `kappa` is None where it isn't defined (one label alone)."""

    first: str
    second: str
    units: int
    equal: int
    kappa: float | None


@dataclass(frozen=True)
class Coefficient:
    """A coefficient over `units`; None where it isn't defined."""

    value: float | None
    units: int
    of: str  # which units


@dataclass(frozen=True)
class Agreement:
    """`units` is how many have two labels or more; `pairs_left_out` how many pairs of annotators aren't listed."""

    units: int
    pairs: tuple[PairAgreement, ...]
    pairs_left_out: int
    fleiss: Coefficient | None
    krippendorff: Coefficient
    distance: str


@dataclass(frozen=True)
class Disagreement:
    """An item on which annotators differ: the labels of each; of tags, at each token where they differ."""

    item: str
    line: int
    content: str
    place: int | None
    labels: dict[str, str]


def measure_agreement(labelled: LabelFile, distance: str = "nominal") -> Agreement | None:
    """The agreement of all annotators; None if no unit was labelled by two."""
    triples = [
        (each.annotator, (each.item, place), label)
        for each in labelled.annotations
        if each.annotator is not None
        for place, label in enumerate(each.labels)
    ]
    units: dict[Unit, dict[str, str]] = {}
    for annotator, unit, label in triples:
        units.setdefault(unit, {})[annotator] = label
    shared = {unit: labels for unit, labels in units.items() if len(labels) > 1}
    if not shared:
        return None
    pairs, left_out = _pairs(shared)
    return Agreement(
        units=len(shared),
        pairs=pairs,
        pairs_left_out=left_out,
        fleiss=_fleiss(shared),
        krippendorff=Coefficient(_krippendorff(triples, distance), len(shared), "with two labels or more"),
        distance=distance,
    )


def _pairs(shared: dict[Unit, dict[str, str]]) -> tuple[tuple[PairAgreement, ...], int]:
    """Cohen's kappa of each pair, in the order of their names."""
    common = Counter(pair for labels in shared.values() for pair in combinations(sorted(labels), 2))
    chosen = sorted(sorted(common, key=lambda pair: (-common[pair], pair))[:MOST_PAIRS])
    found = []
    for first, second in chosen:
        both = [(labels[first], labels[second]) for labels in shared.values() if first in labels and second in labels]
        ones, others = [one for one, _ in both], [other for _, other in both]
        equal = sum(one == other for one, other in both)
        found.append(PairAgreement(first, second, len(both), equal, _cohen(ones, others)))
    return tuple(found), len(common) - len(chosen)


def _cohen(ones: Sequence[str], others: Sequence[str]) -> float | None:
    metrics = library("sklearn.metrics", PURPOSE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a kappa that isn't defined
        return _defined(metrics.cohen_kappa_score(ones, others))


def _fleiss(shared: dict[Unit, dict[str, str]]) -> Coefficient | None:
    """Fleiss' kappa, which wants as many labels of each unit: of those that have the usual number."""
    rater = library("statsmodels.stats.inter_rater", PURPOSE)
    numbers = Counter(len(labels) for labels in shared.values())
    number = max(numbers, key=lambda count: (numbers[count], count))
    rows = [list(labels.values()) for labels in shared.values() if len(labels) == number]
    places = {label: place for place, label in enumerate(sorted({label for row in rows for label in row}))}
    table = [[row.count(label) for label in places] for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappa = _defined(rater.fleiss_kappa(table))
    return Coefficient(kappa, len(rows), f"with {number} labels")


def _krippendorff(triples: Sequence[tuple[str, Unit, str]], distance: str) -> float | None:
    agreement, distances = library("nltk.metrics.agreement", PURPOSE), library("nltk.metrics.distance", PURPOSE)
    data: list[tuple[str, Unit, Any]] = list(triples)
    if distance == "interval":
        data = [(annotator, unit, _number(label)) for annotator, unit, label in triples]
    measure = distances.interval_distance if distance == "interval" else distances.binary_distance
    try:
        task = agreement.AnnotationTask(data=data, distance=measure, missing_values=())
        return _defined(task.alpha())
    except ValueError as error:
        raise InputError(f"Krippendorff's alpha: {' '.join(str(error).split())}") from error


def _number(label: str) -> float:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"distance=interval wants labels that are numbers, and {label!a} is none.")
    return value


def _defined(value: float) -> float | None:
    """A number as JSON can have it."""
    return float(value) if math.isfinite(value) else None


def find_disagreements(labelled: LabelFile) -> list[Disagreement]:
    """The items, or places of tokens, on which annotators differ, in the order of the file."""
    by_item: dict[str, list[tuple[Annotation, int]]] = {}
    for annotation, line in zip(labelled.annotations, labelled.lines, strict=True):
        if annotation.annotator is not None and annotation.labels:
            by_item.setdefault(annotation.item, []).append((annotation, line))
    is_tags = labelled.schema.kind == "tags"
    found = []
    for item, given in by_item.items():
        first, line = given[0]
        for place in range(len(first.labels)):
            labels = {str(each.annotator): each.labels[place] for each, _ in given}
            if len(set(labels.values())) > 1:
                found.append(Disagreement(item, line, first.content, place if is_tags else None, labels))
    return found
