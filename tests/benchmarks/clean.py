"""Speed of cleaning on one core: MB of text per second of processor time, by stage and together.

    python -m tests.benchmarks.clean FILE.jsonl [CHOICE]     # CHOICE of conf/clean, fineweb by default

Each stage sees every document as it came; "together" is the whole list on what is left, JSON reading included, once
with nothing known of the words (first) and once again (second).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launch.compose import compose
from trainer.data.clean.document import CleanedDocument, Counted
from trainer.data.clean.stages import BUILD
from trainer.data.near.minhash import Scheme, signature

RULES = (
    "gopher_repetition",
    "gopher_quality",
    "c4",
    "c4_paragraphs",
    "fineweb_quality",
    "chinese_web",
    "code",
    "ratios",
)


def main(file: Path, choice: str = "fineweb") -> None:
    """Prints a line for each stage."""
    clean = compose("prepare", ["data.input=x", "data.output=y", f"clean={choice}"]).data.clean
    lines = file.read_bytes().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    size = sum(len(text.encode()) for text in texts) / 1e6
    stages = {name: BUILD[name](clean) for name in clean.stages}
    for stage in stages.values():  # compiles
        stage(CleanedDocument(Counted(texts[0], clean.words)))
    signature(texts[0], Scheme(5, 14, 8))

    def run(names: list[str]) -> int:
        left = 0
        for line in lines:
            document = CleanedDocument(Counted(json.loads(line)["text"], clean.words))
            left += all(stages[name](document) is None for name in names)
        return left

    rules = [name for name in clean.stages if name in RULES]
    print(f"{len(texts):,} documents, {size:.1f} MB, {choice}")
    for when in ("first", "second"):
        report(f"all rules together, {when}", size, lambda: run(rules))
    for name, stage in stages.items():
        report(
            name, size, lambda stage=stage: [stage(CleanedDocument(Counted(text, clean.words))) for text in texts] and 0
        )
    report("every stage together", size, lambda: run(list(stages)))
    report("MinHash signatures", size, lambda: [signature(text, Scheme(5, 14, 8)) for text in texts] and 0)


def report(what: str, size: float, work: Callable[[], int]) -> None:
    """Runs and prints."""
    begun = time.process_time()
    left = work()
    taken = time.process_time() - begun
    print(f"{what:32} {size / taken:8.1f} MB/s" + (f"  {left:,} documents stay" if left else ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
