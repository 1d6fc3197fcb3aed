"""Whole files of Python's standard library: long documents that every machine has."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

from recipes.common import main, read_records, show, write_records

FILES = 260
MOST = 30_000  # characters of a file


def make() -> None:
    """Writes files of the library, the last ones as test.jsonl."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [file for file in sorted(library.rglob("*.py")) if not {"test", "tests", "site-packages"} & {*file.parts}]
    random.Random(1).shuffle(files)
    texts = [file.read_text("utf-8", errors="ignore")[:MOST] for file in files]
    records = [{"text": text} for text in texts if len(text) > 8000][:FILES]
    write_records("train.jsonl", records[:-20])
    write_records("test.jsonl", records[-20:])


def losses(name: str) -> list[float]:
    """A run's loss on the test set before its first step and at its end."""
    rows = [row["eval/test/loss"] for row in read_records(f"runs/{name}/metrics.jsonl") if "eval/test/loss" in row]
    return [rows[0], rows[-1]]


def compare() -> None:
    """Ways to stretch positions, on rows four times as long: at once, and after a few steps."""
    names = {"yarn": "banyan", "linear": "linear", "theta": "rope_theta alone", "plain": "positions as they were"}
    show(("loss at once", "after"), {shown: losses(name) for name, shown in names.items()})


if __name__ == "__main__":
    main(make, compare)
