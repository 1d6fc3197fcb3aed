"""Pieces of six packages of Python's standard library, which every machine has."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

from recipes.common import main, read_records, split
from recipes.linear import compare_labels, show_label

PACKAGES = ("asyncio", "email", "importlib", "multiprocessing", "tkinter", "unittest")
LINES = 8  # of a piece


def make() -> None:
    """Writes pieces of files; a file's pieces are all for training, or all held out."""
    library, draw = Path(sysconfig.get_path("stdlib")), random.Random(1)
    files = [(package, file) for package in PACKAGES for file in sorted((library / package).rglob("*.py"))]
    files = [(package, file) for package, file in files if "test" not in file.relative_to(library / package).parts]
    draw.shuffle(files)
    train, test = [], []
    for number, (package, file) in enumerate(files):
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
        pieces = ["\n".join(lines[first : first + LINES]) for first in range(0, len(lines), LINES)]
        records = [{"text": piece[:400], "label": package} for piece in pieces]
        (test if number % 5 == 0 else train).extend(records)
    draw.shuffle(train)
    draw.shuffle(test)
    split([*train[:2400], *test[:500]], min(500, len(test)))


def compare() -> None:
    """Against the majority and a bag of words."""
    show_label("exported", [record["text"] for record in read_records("test.jsonl")[:2]])
    compare_labels("runs/classification")


if __name__ == "__main__":
    main(make, compare)
