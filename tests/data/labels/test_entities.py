"""Whole entities: what seqeval finds, and its precision, recall and F1."""

import json
import random

import pytest

from trainer.data.labels.accuracy import compare_with_gold
from trainer.data.labels.entities import are_entities, entities_of, score_entities
from trainer.data.labels.records import read_labels
from trainer.data.labels.schema import Schema

GOLDEN = (0.8494623655913979, 0.8374558303886925, 0.8434163701067616, 283)
LETTERS, TYPES = ["B", "I", "E", "S"], ["PER", "LOC", "ORG-X"]


def tags(draw, count):
    named = [f"{letter}-{kind}" for letter in LETTERS for kind in TYPES]
    return draw.choices([*named, *LETTERS, "O", "O", "O", "O"], k=count)


def pairs(seed):
    """Sequences of gold and given tags, of which some break every scheme."""
    draw = random.Random(seed)
    found = []
    for _ in range(60):
        truth = tags(draw, draw.randint(1, 12))
        found.append((truth, [tag if draw.random() < 0.8 else tags(draw, 1)[0] for tag in truth]))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore")
def test_entities_and_scores_are_seqevals(seed):
    metrics = pytest.importorskip("seqeval.metrics.sequence_labeling")
    given = pairs(seed)
    for truth, _ in given:
        assert entities_of(truth) == metrics.get_entities(truth)
    gold, guessed = map(list, zip(*given, strict=True))
    scores = score_entities(given)
    micro = metrics.precision_recall_fscore_support(gold, guessed, average="micro")
    assert (scores.micro.precision, scores.micro.recall, scores.micro.f1, scores.micro.support) == micro
    by_type = metrics.precision_recall_fscore_support(gold, guessed, average=None)
    found = [(each.precision, each.recall, each.f1, each.support) for each in scores.types]
    assert found == list(zip(*(column.tolist() for column in by_type), strict=True))
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(gold, guessed, average="macro"), abs=1e-15)


BROKEN = [
    "O",
    "B-PER",
    "I-PER",
    "I-MISC",
    "B",
    "BPER",
    "IPER",
    "X-PER",
    "person",
    ".",
    "-",
    "O-PER",
    "E-A-B",
    "L-PER",
    "",
]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.filterwarnings("ignore")
def test_tags_of_no_scheme_are_read_as_seqeval_reads_them(seed):
    metrics = pytest.importorskip("seqeval.metrics.sequence_labeling")
    draw = random.Random(seed)
    for _ in range(100):
        sentence = draw.choices(BROKEN[:-1], k=draw.randint(1, 12))  # seqeval can't read an empty tag
        assert entities_of(sentence) == metrics.get_entities(sentence)
    assert entities_of(["B-X", "", "I-X"]) == entities_of(["B-X", "O", "I-X"])


def test_scores_are_those_that_seqeval_gave():
    """seqeval 1.2.2 on the same sequences; it has no wheel, so that it isn't always there."""
    micro = score_entities(pairs(0)).micro
    assert (micro.precision, micro.recall, micro.f1, micro.support) == GOLDEN


def test_a_file_of_entities_is_scored_against_a_gold_set(tmp_path):
    texts = [["Anna", "Berg", "saw", "Rome"], ["Ben", "left"]]
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O"]]
    given = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "O"]]
    files = []
    for name, rows in (("gold", gold), ("given", given)):
        path = tmp_path / f"{name}.jsonl"
        records = [{"tokens": words, "tags": row} for words, row in zip(texts, rows, strict=True)]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        files.append(read_labels(path, None, {}, Schema))
    entities = compare_with_gold(files[1], files[0]).accuracies[0].entities
    assert entities.micro.f1 == pytest.approx(2 / 3)
    assert [(each.type, each.f1, each.support) for each in entities.types] == [("LOC", 1.0, 1), ("PER", 0.5, 2)]


def test_tags_that_mark_no_entities_have_no_entity_scores():
    assert are_entities(["O", "B-PER", "I", "S-LOC"])
    assert not are_entities(["NOUN", "VERB"])
    assert not are_entities(["O", "PER"])
