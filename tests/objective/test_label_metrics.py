"""Figures of labels equal scikit-learn's, those of entities seqeval's."""

import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

from trainer.evaluate.label_metrics import IGNORED, entities, entity_metrics, has_entities, label_metrics

PEER = Path(__file__).parent.parent / "peers" / "seqeval.sh"
AGAINST_SEQEVAL = """
import json, sys, warnings
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
warnings.simplefilter("ignore")
gold, predicted = json.load(sys.stdin)
figures = {}
for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
    for average in ("micro", "macro"):
        figures[f"{name}_{average}"] = float(score(gold, predicted, average=average, zero_division=0))
print(json.dumps([figures, [sorted(get_entities(row)) for row in gold]]))
"""
TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER", "E-LOC", "S-PER")


@pytest.mark.parametrize("names", [("ham", "spam"), ("a", "b", "c", "never")])
def test_labels_equal_scikit_learn(names):
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    draw = np.random.default_rng(len(names))
    gold = draw.integers(0, min(3, len(names)), (200, 1))
    predicted = np.where(draw.random((200, 1)) < 0.6, gold, draw.integers(0, min(3, len(names)), (200, 1)))
    figures = label_metrics(names, gold, predicted)
    for average in ("micro", "macro"):
        expected = precision_recall_fscore_support(gold[:, 0], predicted[:, 0], average=average, zero_division=0)
        assert [figures[f"{name}_{average}"] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert figures["f1_micro"] == pytest.approx(accuracy_score(gold, predicted))
    each = precision_recall_fscore_support(gold[:, 0], predicted[:, 0], average=None, zero_division=0)
    there = [name for name in names if f"f1/{name}" in figures]
    assert [figures[f"f1/{name}"] for name in there] == pytest.approx(each[2].tolist())


def test_what_is_ignored_counts_for_nothing():
    gold, predicted = np.array([[0, 1, IGNORED]]), np.array([[0, 1, 0]])
    assert label_metrics(("x", "y"), gold, predicted)["f1_macro"] == 1.0
    assert label_metrics(("x", "y"), gold[:, 2:], predicted[:, 2:])["f1_macro"] == 0.0


# Sequences and their spans by seqeval 1.2.2, which is compared with itself in the long tests
SPANS = {
    "B-PER I-PER O B-LOC": {("PER", 0, 1), ("LOC", 3, 3)},
    "I-PER I-LOC O": {("PER", 0, 0), ("LOC", 1, 1)},  # what doesn't fit begins anew
    "B-LOC B-LOC I-LOC": {("LOC", 0, 0), ("LOC", 1, 2)},
    "B-LOC I-LOC E-LOC S-PER": {("LOC", 0, 2), ("PER", 3, 3)},
    "O O": set(),
}


@pytest.mark.parametrize("tags", SPANS)
def test_spans_of_tags(tags):
    assert entities(tags.split()) == SPANS[tags]


def test_entities_are_right_where_type_and_both_ends_are():
    labels = ("O", "B-LOC", "I-LOC", "B-PER")
    gold, predicted = np.array([[1, 2, 0, 3, IGNORED]]), np.array([[1, 0, 0, 3, 1]])
    figures = entity_metrics(labels, gold, predicted)
    assert (figures["precision_micro"], figures["recall_micro"], figures["f1/PER"], figures["f1/LOC"]) == (
        0.5,
        0.5,
        1,
        0,
    )
    assert has_entities(labels)
    assert not has_entities(("good", "bad"))


def random_tags(count, seed):
    draw = random.Random(seed)
    return [[draw.choice(TAGS) for _ in range(draw.randint(1, 12))] for _ in range(count)]


@pytest.mark.full
def test_entities_equal_seqeval():
    gold = random_tags(400, 0)
    draw = random.Random(1)
    predicted = [[tag if draw.random() < 0.7 else draw.choice(TAGS) for tag in row] for row in gold]
    python = subprocess.run([PEER], capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(
        [python, "-c", AGAINST_SEQEVAL], input=json.dumps([gold, predicted]), capture_output=True, text=True, check=True
    )
    expected, spans = json.loads(done.stdout)
    assert [sorted(entities(row)) for row in gold] == [[tuple(span) for span in row] for row in spans]
    numbers = {tag: number for number, tag in enumerate(TAGS)}
    width = max(map(len, gold))

    def table(rows):
        return np.array([[*(numbers[tag] for tag in row), *[IGNORED] * (width - len(row))] for row in rows])

    figures = entity_metrics(TAGS, table(gold), table(predicted))
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
