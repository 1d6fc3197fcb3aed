"""How far labels are those of a gold set: accuracy, and precision, recall and F1 of each label, by scikit-learn.

Of tags that mark entities, precision, recall and F1 of whole entities as well (entities.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.data.labels.entities import EntityScores, are_entities, score_entities
from trainer.data.labels.records import LabelFile
from trainer.data.text.libraries import library
from trainer.errors import InputError

PURPOSE = "accuracy against a gold set"
EVERYBODY = "all"  # the name of annotations without an annotator, and of all annotators together


@dataclass(frozen=True)
class LabelScore:
    """One label; `support` is how often the gold set has it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Accuracy:
    """An annotator's labels against the gold set's: `units` are items or, of tags, tokens.

    `entities` are told of tags that mark entities.
    """

    annotator: str
    items: int
    items_right: int
    units: int
    accuracy: float
    macro_f1: float
    labels: tuple[LabelScore, ...]
    confused: tuple[tuple[str, str, int], ...]  # gold label, given label, how often: the most frequent first
    entities: EntityScores | None


@dataclass(frozen=True)
class Comparison:
    """What was compared with the gold set; `unlabelled` of its items nobody labelled, `unknown` items it hasn't."""

    gold_items: int
    unlabelled: int
    unknown: int
    accuracies: tuple[Accuracy, ...]


def compare_with_gold(labelled: LabelFile, gold: LabelFile) -> Comparison:
    """Everybody's accuracy, then each annotator's. InputError if the two files have no item in common."""
    truth = _truth(gold, labelled)
    pairs: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
    seen: set[str] = set()
    unknown: set[str] = set()
    for each in labelled.annotations:
        if each.item not in truth:
            unknown.add(each.item)
            continue
        right, content = truth[each.item]
        if content != each.content:
            raise InputError(f"{gold.path}: {each.item[:60]!a} is something else there than in {labelled.path}.")
        seen.add(each.item)
        for annotator in {EVERYBODY, each.annotator or EVERYBODY}:
            pairs.setdefault(annotator, []).append((right, each.labels))
    if not seen:
        raise InputError(f"{gold.path}: no item of {labelled.path} is in it; they are told apart by id, or by content.")
    names = [EVERYBODY, *sorted(set(pairs) - {EVERYBODY})]
    return Comparison(
        len(truth),
        len(truth) - len(seen),
        len(unknown),
        tuple(_accuracy(name, pairs[name], tagged=gold.schema.kind == "tags") for name in names),
    )


def _truth(gold: LabelFile, labelled: LabelFile) -> dict[str, tuple[tuple[str, ...], str]]:
    """The gold labels of each item."""
    if gold.schema.kind != labelled.schema.kind:
        raise InputError(f"{gold.path}: it holds {gold.schema.kind}, {labelled.path} {labelled.schema.kind}.")
    truth: dict[str, tuple[tuple[str, ...], str]] = {}
    for annotation, line in zip(gold.annotations, gold.lines, strict=True):
        if not annotation.labels:
            raise InputError(f"{gold.path}, line {line:,}, field {gold.schema.name('label')}: is missing.")
        known, _ = truth.setdefault(annotation.item, (annotation.labels, annotation.content))
        if known != annotation.labels:
            raise InputError(f"{gold.path}, line {line:,}: a second, other gold label of the same item.")
    return truth


def _accuracy(name: str, pairs: list[tuple[tuple[str, ...], tuple[str, ...]]], *, tagged: bool) -> Accuracy:
    metrics = library("sklearn.metrics", PURPOSE)
    pairs = [(right, given) for right, given in pairs if given]
    truth = [label for right, _ in pairs for label in right]
    given = [label for _, labels in pairs for label in labels]
    if not given:
        raise InputError(f"accuracy: the annotations by {name!a} of the gold set's items have no label.")
    names = sorted({*truth, *given})
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, given, labels=names, zero_division=0
    )
    table = metrics.confusion_matrix(truth, given, labels=names)
    confused = [
        (names[row], names[column], int(table[row, column]))
        for row, column in zip(*table.nonzero(), strict=True)
        if row != column
    ]
    return Accuracy(
        annotator=name,
        items=len(pairs),
        items_right=sum(right == labels for right, labels in pairs),
        units=len(truth),
        accuracy=float(metrics.accuracy_score(truth, given)),
        macro_f1=float(metrics.f1_score(truth, given, labels=names, average="macro", zero_division=0)),
        labels=tuple(
            LabelScore(label, float(precision[place]), float(recall[place]), float(f1[place]), int(support[place]))
            for place, label in enumerate(names)
        ),
        confused=tuple(sorted(confused, key=lambda each: (-each[2], each))),
        entities=score_entities(pairs) if tagged and are_entities(names) else None,
    )
