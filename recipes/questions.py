"""Made questions about two facts, told in one of four ways, that end in the answer or don't."""

from __future__ import annotations

import random

from recipes.common import figure_of_task, main, read_records, show, split

NAMES = ["Anna", "Bert", "Clara", "David", "Eva", "Frank"]
THINGS = ["drum", "lamp", "coat", "boat", "clock", "chair"]
PLACES = ["Oslo", "Lund", "Riga", "Turin", "Porto", "Ghent"]
FACTS = [
    "{name} keeps the {thing} in {place}.",
    "In {place} there is the {thing} of {name}.",
    "The {thing} went to {place} with {name}.",
    "To {place} {name} sent the {thing}.",
]


def make() -> None:
    """Writes 6,000 drawn questions to learn from, and 200 to be asked, with the file of the task."""
    draw = random.Random(1)
    split([_question(draw) for _ in range(6200)], 200)


def _question(draw: random.Random) -> dict[str, str]:
    facts = list(zip(draw.sample(NAMES, 2), draw.sample(THINGS, 2), draw.sample(PLACES, 2), strict=True))
    context = " ".join(draw.choice(FACTS).format(name=name, thing=thing, place=place) for name, thing, place in facts)
    name, thing, place = draw.choice(facts)
    question, answer = draw.choice([(f"Where is the {thing}?", place), (f"Whose is the {thing}?", name)])
    return {"prompt": f"{context}\n{question}\nAnswer:", "completion": f" {answer}"}


def nearest(prompt: str) -> str:
    """A name of the sentence that has the asked thing: the last capitalised word."""
    context, question, _ = prompt.split("\n")
    thing = question.removesuffix("?").split()[-1]
    sentence = next(sentence for sentence in context.split(".") if thing in sentence.split())
    return [word for word in sentence.split() if word[0].isupper()][-1]


def compare() -> None:
    """SQuAD's exact match and F1: the model's by `banyan evaluate`, the baseline's by the same code."""
    from trainer.evaluate.metrics.squad import exact_match, mean_f1

    test = read_records("test.jsonl")
    pairs = [(nearest(record["prompt"]), [record["completion"].strip()]) for record in test]
    rows = {
        "banyan": [figure_of_task("questions", name) for name in ("squad_exact_match", "squad_f1")],
        "last name of the sentence": [exact_match(pairs), mean_f1(pairs)],
        "always Oslo": [exact_match([("Oslo", wanted) for _, wanted in pairs])] * 2,
    }
    show(["exact match", "F1"], rows)


if __name__ == "__main__":
    main(make, compare)
