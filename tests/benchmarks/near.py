"""Near-duplicates: which planted pairs meet, beside theory, and how the cost grows with the text.

python -m tests.benchmarks.near recall [--pairs 20000]        pairs at eight similarities
python -m tests.benchmarks.near growth [--megabytes 40 80 160 320]

recall: of pairs of 150 words of which some are replaced, the exact Jaccard similarity s is taken, and the share of
pairs that have a band in common is held against the mean of 1 - (1 - s^rows)^bands.

growth: CPU seconds of all stages of finding near-duplicates in documents of 2 kB, one in ten of which is near to an
earlier one; a power law over the sizes is carried on to a terabyte.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.benchmarks import report
from tests.benchmarks.contestants.preparing import NEAR, prepared
from trainer.data.near.minhash import Scheme, band_keys, jaccard, shingles, signature

SCHEME = Scheme(words=5, bands=14, rows=8)
LENGTH = 150  # words of a text
REPLACED = (10, 8, 6, 5, 4, 3, 2, 1)  # of them, which makes similarities of 0.5 to 0.93
VOCABULARY = [f"{first}{second}{third}" for first in "bdgklmnprst" for second in "aeiou" for third in range(400)]
DOCUMENT_WORDS, NEAR_SHARE = 500, 10


def recall(pairs: int) -> None:
    """Prints what met beside theory, by how many words were replaced."""
    rows, all_met, all_expected = [], [], []
    for similarities, met in plant_pairs(pairs):
        expected = [SCHEME.found(similarity) for similarity in similarities]
        all_met += met
        all_expected += expected
        rows.append([f"{np.mean(similarities):.3f}", *_beside_theory(met, expected)])
    rows.append(["all", *_beside_theory(all_met, all_expected)])
    print(report.show(["similarity, mean", "met", "theory", "difference", "two standard errors"], rows))


def plant_pairs(pairs: int) -> Iterator[tuple[list[float], list[bool]]]:
    """For each number of replaced words the exact similarities of so many pairs, and which share a band."""
    draw = random.Random(1)
    for replaced in REPLACED:
        met, similarities = [], []
        for _ in range(pairs):
            words = draw.choices(VOCABULARY, k=LENGTH)
            first = " ".join(words)
            for place in draw.sample(range(LENGTH), replaced):
                words[place] = "another" + str(place)
            texts = first, " ".join(words)
            met.append(_meet(np.array([signature(text, SCHEME) for text in texts])))
            similarities.append(jaccard(*(shingles(text, SCHEME.words) for text in texts)))
        yield similarities, met


def _meet(signatures: np.ndarray) -> bool:
    return any(len(set(band_keys(signatures, SCHEME, band).tolist())) == 1 for band in range(SCHEME.bands))


def _beside_theory(met: list[bool], expected: list[float]) -> list[str]:
    error = 2 * math.sqrt(sum(chance * (1 - chance) for chance in expected)) / len(met)
    difference = float(np.mean(met) - np.mean(expected))
    return [f"{np.mean(met):.4f}", f"{np.mean(expected):.4f}", f"{difference:+.4f}", f"{error:.4f}"]


def growth(sizes: list[float]) -> None:
    """Prints CPU seconds by stage and size, and what the law says of a terabyte."""
    rows, totals = [], []
    for size in (1, *sizes):  # the first one compiles
        with tempfile.TemporaryDirectory(prefix="bench-near-") as scratch:
            folder = Path(scratch)
            held = write_documents(folder / "documents.jsonl", size)
            settings = ["data.near_duplicates=true", "data.workers=1", "data.validation_fraction=0"]
            settings += [f"data.input={folder / 'documents.jsonl'}", f"data.output={folder / 'out'}"]
            settings += ["data.tokenizer.train.vocab_size=300", "data.tokenizer.train.sample_bytes=100000"]
            seconds = prepared(settings)
        if size == 1:
            continue
        totals.append((held, sum(seconds[work] for work in NEAR)))
        rows.append([f"{held:.0f}", *(f"{seconds[work]:.2f}" for work in NEAR), f"{held / totals[-1][1]:.0f}"])
        print(f"{held:.0f} MB: {totals[-1][1]:.2f} s", flush=True)
    print(report.show(["MB of text", *NEAR, "MB/CPU-s"], rows))
    exponent, scale = np.polyfit(*np.log(np.array(totals)).T, 1)
    hours = math.exp(scale) * 1e6**exponent / 3600
    law = f"{math.exp(scale):.3g} · MB^{exponent:.3f}"
    print(f"seconds = {law}, so {hours:.1f} core-hours for a terabyte, by extrapolation")
    print(report.machine_line(report.machine()))


def write_documents(file: Path, megabytes: float) -> float:
    """JSON lines of about so much text; returns how much it is."""
    draw = np.random.default_rng(1)
    words = np.array([f"w{number}" if number % 3 else VOCABULARY[number % len(VOCABULARY)] for number in range(50_000)])
    size, earlier = 0, [" ".join(words[:DOCUMENT_WORDS])]
    with open(file, "w") as lines:
        number = 0
        while size < megabytes * 1e6:
            if number % NEAR_SHARE == NEAR_SHARE - 1:
                old = earlier[int(draw.integers(len(earlier)))].split(" ")
                for place in draw.integers(len(old), size=3).tolist():
                    old[place] = "altered"
                text = " ".join(old)
            else:
                ranks = np.minimum(draw.zipf(1.3, DOCUMENT_WORDS), len(words)) - 1
                text = " ".join(words[ranks])
                earlier.append(text)
            lines.write(json.dumps({"text": text}) + "\n")
            size += len(text)
            number += 1
    return size / 1e6


def main(arguments: list[str] | None = None) -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recall", "growth"))
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[40, 80, 160, 320])
    options = parser.parse_args(arguments)
    if options.what == "recall":
        recall(options.pairs)
    else:
        growth(options.megabytes)


if __name__ == "__main__":
    main()
