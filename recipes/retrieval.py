"""Made texts on two topics each, and queries with other words of the same topics: none of a query is in its text."""

from __future__ import annotations

import json
import random
from pathlib import Path

from recipes.common import main, read_records, show, write_records

TOPICS, WORDS = 16, 8  # topics, and words of each
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def make() -> None:
    """Writes texts to read, in which all words of a topic occur, and pairs: a query and the text it should find."""
    draw = random.Random(1)
    words = ["".join(draw.sample(SYLLABLES, 2)) for _ in range(2 * TOPICS * WORDS)]
    words = list(dict.fromkeys(words))[: TOPICS * WORDS]
    topics = [words[first : first + WORDS] for first in range(0, len(words), WORDS)]
    texts = []
    for _ in range(3000):
        two = draw.sample(topics, 2)
        texts.append({"text": " ".join(draw.choice(draw.choice(two)) for _ in range(16))})
    write_records("train.jsonl", texts)
    pairs = []
    for first in range(TOPICS):
        for second in range(first):
            half = [draw.sample(topics[topic], WORDS) for topic in (first, second)]
            query = [word for each in half for word in each[:3]]
            positive = [word for each in half for word in each[3:]]
            draw.shuffle(query)
            draw.shuffle(positive)
            pairs.append({"query": " ".join(query), "positive": " ".join(positive)})
    write_records("pairs.jsonl", pairs)


def compare() -> None:
    """Recall and MRR by `banyan explain retrieval` of the model and of itself after one step, and by TF-IDF."""
    import torch
    from sklearn.feature_extraction.text import TfidfVectorizer

    from trainer.explain.retrieval import ranks_of_positives, retrieval_metrics

    pairs = read_records("pairs.jsonl")
    queries, texts = [pair["query"] for pair in pairs], [pair["positive"] for pair in pairs]
    vectorizer = TfidfVectorizer().fit(texts)
    vectors = [torch.from_numpy(vectorizer.transform(side).toarray()) for side in (queries, texts)]
    ranks = ranks_of_positives(vectors[0], vectors[1], queries, range(len(texts)))
    plain = retrieval_metrics(ranks, [1, 10])
    names = ["recall@1", "recall@10", "mrr"]
    rows = {
        "banyan": _found("found", names),
        "the same model after one step": _found("found-untrained", names),
        "TF-IDF": [plain[name][0] for name in names],
    }
    show(names, rows)


def _found(folder: str, names: list[str]) -> list[float]:
    records = json.loads(Path(folder, "retrieval.json").read_text("utf-8"))
    records = records if isinstance(records, list) else records["results"]
    values = {each["metric"]: float(each["value"]) for each in records}
    return [values[name] for name in names]


if __name__ == "__main__":
    main(make, compare)
