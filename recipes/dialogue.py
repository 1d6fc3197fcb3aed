"""Made talks at the counter of a café: the guest's name and order are to be kept in mind, the sum to be known."""

from __future__ import annotations

import random
from typing import Any

from recipes.common import answers, main, read_records, show, split, write_records

NAMES = ["Anna", "Bert", "Clara", "David", "Eva", "Frank", "Grace", "Henry"]
PRICES = {"tea": 2, "coffee": 3, "cake": 4, "soup": 5}
COUNTS = {"one": 1, "two": 2, "three": 3}
GREETINGS = ["Hello, I am {name}.", "Good morning, my name is {name}.", "Hi! {name} is my name."]
ORDERS = ["{count} {dish}, please.", "Could I have {count} {dish}?", "I'd like {count} {dish}."]
ENDS = ["How much is it?", "The bill, please.", "What do I owe you?"]


def make() -> None:
    """Writes 2,000 drawn talks to learn from; each answer of 60 others is asked for, given all that came before."""
    draw = random.Random(1)
    split([_talk(draw) for _ in range(2000 + 60)], 60)
    turns = [turn for talk in read_records("test.jsonl") for turn in _turns(talk["messages"])]
    write_records("prompts.jsonl", ({"messages": before, "wanted": wanted} for before, wanted in turns))


def _talk(draw: random.Random) -> dict[str, Any]:
    name, count, dish = draw.choice(NAMES), draw.choice(list(COUNTS)), draw.choice(list(PRICES))
    sum_due = COUNTS[count] * PRICES[dish]
    said = [
        (draw.choice(GREETINGS).format(name=name), f"Welcome, {name}. What would you like?"),
        (draw.choice(ORDERS).format(count=count, dish=dish), f"{count} {dish} for {name}. Anything else?"),
        (draw.choice(ENDS), f"{sum_due} euros for {count} {dish}, {name}."),
    ]
    messages = []
    for asked, answered in said:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"messages": messages}


def _turns(messages: list[dict[str, str]]) -> list[tuple[list[dict[str, str]], str]]:
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return [(messages[:place], messages[place]["content"]) for place in places]


def compare() -> None:
    """Exact answers and chrF, against the answer that the most similar question had (TF-IDF), and the commonest."""
    from collections import Counter

    from sklearn.feature_extraction.text import TfidfVectorizer

    from trainer.evaluate.metrics.translation import chrf

    known = [turn for talk in read_records("train.jsonl") for turn in _turns(talk["messages"])]
    asked = read_records("prompts.jsonl")
    vectorizer = TfidfVectorizer()
    questions = vectorizer.fit_transform(before[-1]["content"] for before, _ in known)
    nearest = (vectorizer.transform(each["messages"][-1]["content"] for each in asked) @ questions.T).toarray()
    commonest = Counter(answer for _, answer in known).most_common(1)[0][0]
    rows = {}
    for name, texts in {
        "banyan": answers(),
        "answer of the nearest question": [known[place][1] for place in nearest.argmax(axis=1)],
        "commonest answer": [commonest] * len(asked),
    }.items():
        wanted = [each["wanted"] for each in asked]
        right = sum(text.strip() == each for text, each in zip(texts, wanted, strict=True))
        rows[name] = [right / len(wanted), chrf([(text, [each]) for text, each in zip(texts, wanted, strict=True)])]
    show(["exact", "chrF"], rows)


if __name__ == "__main__":
    main(make, compare)
