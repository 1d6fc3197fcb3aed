"""Accuracy and agreement equal what the reference libraries say, to the last digit."""

import json
import random

import pytest
from nltk.metrics import interval_distance
from nltk.metrics.agreement import AnnotationTask
from sklearn import metrics
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from trainer.data.labels.accuracy import compare_with_gold
from trainer.data.labels.agreement import find_disagreements, measure_agreement
from trainer.data.labels.records import read_labels
from trainer.data.labels.schema import Schema
from trainer.errors import InputError

LABELS = ["1", "2", "4"]
WHO = ["anna", "ben", "cem"]


def read(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_labels(path, None, {}, Schema)


def draw_ratings(seed, *, items=60, skipped=0.0):
    """For each item the label of each annotator, None where it was skipped, and the right one."""
    draw = random.Random(seed)
    rows = []
    for _ in range(items):
        right = draw.choice(LABELS)
        given = [right if draw.random() < 0.7 else draw.choice(LABELS) for _ in WHO]
        rows.append((right, [None if draw.random() < skipped else label for label in given]))
    return rows


def as_records(rows):
    return [
        {"id": f"r{number}", "text": f"text {number}", "label": label, "annotator": who}
        for number, (_, given) in enumerate(rows)
        for who, label in zip(WHO, given, strict=True)
        if label is not None
    ]


@pytest.mark.parametrize("seed", range(3))
def test_coefficients_are_the_reference_libraries_to_the_last_digit(tmp_path, seed):
    rows = draw_ratings(seed, skipped=0.2)
    records = as_records(rows)
    agreement = measure_agreement(read(tmp_path / "a.jsonl", records))
    for pair in agreement.pairs:
        first, second = WHO.index(pair.first), WHO.index(pair.second)
        both = [(given[first], given[second]) for _, given in rows if given[first] and given[second]]
        assert pair.units == len(both)
        assert pair.kappa == metrics.cohen_kappa_score(*zip(*both, strict=True))
    whole = [given for _, given in rows if all(given)]
    assert agreement.fleiss.value == fleiss_kappa(aggregate_raters(whole)[0])
    triples = [(record["annotator"], record["id"], record["label"]) for record in records]
    assert agreement.krippendorff.value == AnnotationTask(data=triples).alpha()
    interval = measure_agreement(read(tmp_path / "a.jsonl", records), "interval")
    numbers = [(who, item, float(label)) for who, item, label in triples]
    assert interval.krippendorff.value == AnnotationTask(data=numbers, distance=interval_distance).alpha()


def test_accuracy_against_gold_is_scikit_learns(tmp_path):
    rows = draw_ratings(7)
    gold = [{"id": f"r{number}", "text": f"text {number}", "label": right} for number, (right, _) in enumerate(rows)]
    found = compare_with_gold(read(tmp_path / "a.jsonl", as_records(rows)[:-3]), read(tmp_path / "gold.jsonl", gold))
    assert (found.gold_items, found.unlabelled, found.unknown) == (60, 1, 0)
    truth, given = [right for right, _ in rows[:-1]], [given[1] for _, given in rows[:-1]]
    ben = next(each for each in found.accuracies if each.annotator == "ben")
    assert ben.accuracy == metrics.accuracy_score(truth, given)
    assert ben.macro_f1 == metrics.f1_score(truth, given, average="macro")
    assert [each.recall for each in ben.labels] == list(metrics.recall_score(truth, given, average=None))
    assert sum(each[2] for each in ben.confused) == sum(one != other for one, other in zip(truth, given, strict=True))


def test_tags_agree_token_by_token_and_disagreements_name_the_token(tmp_path):
    tokens = ["Ada", "Lovelace", "wrote"]
    records = [
        {"id": 1, "tokens": tokens, "tags": ["B", "I", "O"], "annotator": "anna"},
        {"id": 1, "tokens": tokens, "tags": ["B", "O", "O"], "annotator": "ben"},
    ]
    labelled = read(tmp_path / "a.jsonl", records)
    assert measure_agreement(labelled).units == 3
    (found,) = find_disagreements(labelled)
    assert (found.line, found.place, found.labels) == (1, 1, {"anna": "I", "ben": "O"})


def test_preferences_agree_whichever_response_stands_first(tmp_path):
    ones = {"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "anna"}
    others = {"prompt": "p", "chosen": "b", "rejected": "a", "annotator": "ben"}
    assert len(find_disagreements(read(tmp_path / "a.jsonl", [ones, others]))) == 1
    assert not find_disagreements(read(tmp_path / "b.jsonl", [ones, others | {"chosen": "a", "rejected": "b"}]))


def test_one_label_alone_has_no_kappa(tmp_path):
    records = [{"id": n, "text": str(n), "annotations": {"anna": "x", "ben": "x"}} for n in range(3)]
    agreement = measure_agreement(read(tmp_path / "a.jsonl", records))
    assert (agreement.pairs[0].kappa, agreement.fleiss.value, agreement.pairs[0].equal) == (None, None, 3)


def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path):
    labelled = read(tmp_path / "a.jsonl", [{"id": 1, "text": "a", "label": "x"}])
    for gold, said in (
        ([{"id": 2, "text": "a", "label": "x"}], "no item of"),
        ([{"id": 1, "text": "b", "label": "x"}], "something else there"),
        ([{"tokens": ["a"], "tags": ["x"]}], "it holds tags"),
    ):
        with pytest.raises(InputError, match=said):
            compare_with_gold(labelled, read(tmp_path / "gold.jsonl", gold))
    records = [{"id": 1, "text": "a", "annotations": {"anna": "x", "ben": "y"}}]
    with pytest.raises(InputError, match="wants labels that are numbers"):
        measure_agreement(read(tmp_path / "b.jsonl", records), "interval")
    assert measure_agreement(labelled) is None
