"""How often the watermark's detector takes what people wrote for marked.

python -m tests.benchmarks.watermark FOLDER [--texts FILE …]

FOLDER is a Hugging Face folder, of which the tokenizer counts. Passages of so many tokens are cut from texts that
people wrote: the docstrings of Python's standard library, or --texts, files of plain text or HTML. Every passage is
read with several keys. A share of them is above a threshold z; were pairs of tokens independent, it would be 1 − Φ(z).
"""

from __future__ import annotations

import argparse
import ast
import math
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.serve.watermark import Mark

THRESHOLDS = (2.0, 3.0, 4.0, 5.0)


def docstrings() -> Iterator[str]:
    """Those of the standard library, longest first within a file; one that is there twice counts once."""
    seen = set()
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "test", "tests", "lib2to3"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if text not in seen:
                    seen.add(text)
                    yield text


def texts_of(paths: list[str]) -> Iterator[str]:
    for path in paths:
        text = Path(path).read_text(encoding="utf-8")
        if path.endswith((".html", ".htm")):
            from resiliparse.extract.html2text import extract_plain_text

            text = extract_plain_text(text, main_content=True)
        yield text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="Hugging Face folder with the tokenizer")
    parser.add_argument("--texts", nargs="*", default=[], help="files; by default docstrings of the standard library")
    parser.add_argument("--tokens", type=int, default=200, help="of a passage")
    parser.add_argument("--passages", type=int, default=2000, help="at most")
    parser.add_argument("--keys", type=int, default=5, help="with which each passage is read")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(Path(arguments.folder))
    passages = []
    for text in texts_of(arguments.texts) if arguments.texts else docstrings():
        ids = tokenizer.encode(text)
        passages += [ids[n : n + arguments.tokens] for n in range(0, len(ids) - arguments.tokens + 1, arguments.tokens)]
    random.Random(0).shuffle(passages)
    passages = passages[: arguments.passages]
    keys = [15485863, *random.Random(1).sample(range(1, 2**40), arguments.keys - 1)]
    scores = np.array(
        [
            [detector.read(ids).z for ids in passages]
            for detector in (Mark(key, 2.0, 0.25, tokenizer.vocab_size).detector() for key in keys)
        ]
    )
    mean, spread = scores.mean(), scores.std()
    print(f"{len(passages):,} passages of {arguments.tokens} tokens, {len(keys)} keys: z {mean:.2f} ± {spread:.2f}")
    for z in THRESHOLDS:
        of_keys = (scores > z).mean(axis=1)
        independent = 0.5 * math.erfc(z / math.sqrt(2))
        print(
            f"z > {z:g}: {int((scores > z).sum()):,} of {scores.size:,} readings, {(scores > z).mean():.3%} "
            f"({of_keys.min():.3%} to {of_keys.max():.3%} by key); {independent:.3%} if pairs were independent"
        )


if __name__ == "__main__":
    main()
