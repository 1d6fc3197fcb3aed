"""`make bench-checkpoint`: what an index costs a rank of many, to save and to load, and how that grows.

python -m tests.benchmarks.checkpoint [--ranks 64 512 4096] [--rounds 3] [--output DIR]

Checkpoints of Llama 70B at ZeRO stage 3 without their tensors. Seconds of CPU of one process, medians; files are in the
page cache, so a network's file system adds its own time for each file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from tests.benchmarks import report
from tests.benchmarks.contest import ROOT
from tests.scale.large_run import KINDS, LLAMA_70B, LargeRun
from trainer.checkpoint.data_file import DataFile
from trainer.checkpoint.index import INDEX
from trainer.checkpoint.job import WRITTEN, read_written
from trainer.checkpoint.merge import merge_indexes
from trainer.checkpoint.notes import Notes
from trainer.checkpoint.reader import CheckpointReader

TINY = {f"layers.{layer}.{name}.weight": (64, 64) for layer in range(2) for name in ("q_proj", "o_proj")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(
        prog="bench-checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 512, 4096], help="that saved, multiples of 8")
    parser.add_argument("--tensor", type=int, default=1, help="tensor degree that saved")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a small model, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    facts = report.machine()
    shapes = TINY if options.tiny else LLAMA_70B
    found = {str(ranks): measure(LargeRun(ranks, options.tensor, shapes), options.rounds) for ranks in options.ranks}
    print(report.machine_line(facts))
    names = list(next(iter(found.values())))
    rows = [[name, *(f"{values[name]:,.3f}" for values in found.values())] for name in names]
    print(report.show([f"saved with tensor {options.tensor}, ranks:", *found], rows), flush=True)
    report.write(options.output / "checkpoint.json", {"machine": facts, "tensor": options.tensor, "found": found})
    return 0


def measure(run: LargeRun, rounds: int) -> dict[str, float]:
    """Sizes, and seconds of what rank 0 does at a save and any rank at a load."""
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as name:
        folder = Path(name)
        notes = Notes(folder)
        indexes = [run.own_index(rank) for rank in range(run.ranks)]
        files = [DataFile(rank, (0,)).name for rank in range(run.ranks)]
        for rank, index in enumerate(indexes):
            line = {"file": files[rank], "part": {}, "index": xxhash.xxh3_128_hexdigest(index)}
            notes.leave(rank, WRITTEN, json.dumps(line).encode() + b"\n" + index)
        merging = _seconds(lambda: merge_indexes(iter(indexes), files), 1)
        noting = _seconds(lambda: [read_written(notes.path(rank, WRITTEN)) for rank in range(run.ranks)], rounds)
        saved = run.write(folder / "step-00000001")
        found: dict[str, float] = {
            "pieces, millions": run.pieces / 1e6,
            "index, MB": (saved / INDEX).stat().st_size / 1e6,
            "rank 0, first save: merges all indexes, s": merging,
            "rank 0, each save: reads a line of all, s": noting,
            "load: opens COMPLETE, state and index, s": _seconds(lambda: CheckpointReader(saved), rounds),
        }
        reader = CheckpointReader(saved)
        for ranks, tensor in ((run.ranks, run.tensor), (run.ranks // 2, run.tensor), (8, 1), (run.ranks, 8)):
            other = LargeRun(ranks, tensor, run.shapes)
            what = "the same shape" if (ranks, tensor) == (run.ranks, run.tensor) else _words(ranks, tensor, run)
            found[f"load: plans at {what}, s"] = _seconds(lambda other=other: plan(reader, other), rounds)
        return found


def plan(reader: CheckpointReader, run: LargeRun) -> int:
    """Finds all that a rank of `run` holds; the number of runs of pieces."""
    regions: dict[str, Any] = run.regions_of(run.ranks // 3)
    return sum(
        sum(1 for _ in reader.index.find(name, kind, region)) for name, region in regions.items() for kind in KINDS
    )


def _words(ranks: int, tensor: int, run: LargeRun) -> str:
    size = "half the ranks" if ranks == run.ranks // 2 else "as many ranks" if ranks == run.ranks else f"{ranks} ranks"
    return f"{size}, tensor {tensor}"


def _seconds(work: Callable[[], Any], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
