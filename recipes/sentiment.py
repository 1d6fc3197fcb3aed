"""Opinions of made sentences, in which a negation turns a word round."""

from __future__ import annotations

import random

from recipes.common import main, split
from recipes.linear import compare_labels, show_label

THINGS = ["soup", "bread", "room", "view", "film", "story", "music", "bed", "tea", "garden", "service", "lamp"]
GOOD = ["good", "lovely", "great", "warm", "clean", "brilliant"]
BAD = ["bad", "awful", "dull", "cold", "dirty", "poor"]
FRAMES = [
    "the {thing} was {word}",
    "we found the {thing} {word}",
    "a {word} {thing}, they said",
    "{word} {thing} again",
]


def make() -> None:
    """Writes 2,200 sentences: one or two clauses of one opinion."""
    draw = random.Random(1)
    records = []
    for _ in range(2200):
        label = draw.choice(["positive", "negative"])
        clauses = []
        for _ in range(draw.randint(1, 2)):
            is_turned = draw.random() < 0.35
            words = GOOD if (label == "positive") != is_turned else BAD
            word = ("not " if is_turned else "") + draw.choice(words)
            clauses.append(draw.choice(FRAMES).format(thing=draw.choice(THINGS), word=word))
        records.append({"text": " and ".join(clauses) + ".", "label": label})
    split(records, 400)


def compare() -> None:
    """Against the majority and a bag of words."""
    show_label("exported", ["the tea was not bad.", "the tea was bad and the room was not clean."])
    compare_labels("runs/sentiment")


if __name__ == "__main__":
    main(make, compare)
