"""Made reports of matches: who won is said somewhere among what else went on, and nearly never first."""

from __future__ import annotations

import random

from recipes.common import answers, main, read_records, show, show_texts, split, write_records

TEAMS = ["Oslo", "Lund", "Riga", "Turin", "Porto", "Bergen", "Leeds", "Ghent"]
FILLERS = [
    "The rain stopped at noon.",
    "Many families had come.",
    "The band played before the start.",
    "Nobody was hurt.",
    "Tickets were sold out.",
    "The referee was calm.",
]
RESULTS = [
    "In the end {winner} beat {loser} by {score}.",
    "{loser} lost to {winner}, and the score was {score}.",
    "After a long fight the score was {score} for {winner} against {loser}.",
]


def make() -> None:
    """Writes 3,000 drawn reports, each with a line that says the result alone; 200 more are held out."""
    draw = random.Random(1)
    split([_report(draw) for _ in range(3200)], 200)
    write_records("prompts.jsonl", ({"prompt": record["source"]} for record in read_records("test.jsonl")))


def _report(draw: random.Random) -> dict[str, str]:
    winner, loser = draw.sample(TEAMS, 2)
    score = f"{draw.randint(2, 5)}-{draw.randint(0, 1)}"
    told = draw.choice(RESULTS).format(winner=winner, loser=loser, score=score)
    sentences = draw.sample(FILLERS, 3)
    sentences.insert(draw.choice([0, 1, 2, 2, 3, 3]), told)
    return {"source": " ".join(sentences), "target": f"{winner} beat {loser} {score}."}


def compare() -> None:
    """ROUGE-1, -2 and -L by rouge-score, against the first sentence and the last."""
    from trainer.evaluate.metrics.translation import rouge

    test = read_records("test.jsonl")
    rows = {}
    for name, texts in {
        "banyan": answers(),
        "lead-1": [record["source"].split(". ")[0] + "." for record in test],
        "last sentence": [record["source"].removesuffix(".").split(". ")[-1] + "." for record in test],
    }.items():
        pairs = [(text, [record["target"]]) for text, record in zip(texts, test, strict=True)]
        rows[name] = [rouge(kind)(pairs) for kind in ("rouge1", "rouge2", "rougeL")]
    show_texts([record["source"] for record in test], answers())
    show(["ROUGE-1", "ROUGE-2", "ROUGE-L"], rows)


if __name__ == "__main__":
    main(make, compare)
