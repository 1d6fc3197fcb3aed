"""The plain baselines of classifiers: the most frequent label, and TF-IDF with logistic regression by scikit-learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from recipes.common import Record, figure, read_records, show


def compare_labels(run_dir: str) -> None:
    """Accuracy and macro F1 on test.jsonl, of a run of objective=classify and of both baselines."""
    train, test = read_records("train.jsonl"), read_records("test.jsonl")
    frequent = Counter(record["label"] for record in train).most_common(1)[0][0]
    rows = {
        "banyan": [figure(run_dir, "eval/test/f1_micro"), figure(run_dir, "eval/test/f1_macro")],
        "TF-IDF + logistic regression": scores(test, logistic(train, test)),
        f"majority ({frequent})": scores(test, [frequent] * len(test)),
    }
    show(["accuracy", "macro F1"], rows)


def logistic(train: Sequence[Record], test: Sequence[Record]) -> list[str]:
    """Labels of `test` by scikit-learn's defaults: words, no pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer()
    model = LogisticRegression(max_iter=1000)
    model.fit(vectorizer.fit_transform(record["text"] for record in train), [record["label"] for record in train])
    return list(model.predict(vectorizer.transform(record["text"] for record in test)))


def scores(test: Sequence[Record], labels: Sequence[str]) -> list[float]:
    """Accuracy and macro F1."""
    from sklearn.metrics import accuracy_score, f1_score

    gold = [record["label"] for record in test]
    return [float(accuracy_score(gold, labels)), float(f1_score(gold, labels, average="macro", zero_division=0))]


def show_label(folder: str, texts: Sequence[str]) -> None:
    """What an exported classifier says of texts, by transformers' pipeline."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=folder)
    longest = classify.model.config.max_position_embeddings  # as training cut them
    for text, found in zip(texts, classify(list(texts), truncation=True, max_length=longest), strict=True):
        print(f"{found['label']} ({found['score']:.2f})  {text[:80]!r}")
