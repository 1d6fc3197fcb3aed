"""`make bench-data`: how fast tokens come off the disk, and how long training waits for them.

python -m tests.benchmarks.data [--rounds 5] [--batches 200] [--tiny]

All readers give int64 batches of (rows, T + 1) from the same tokens, in one process that keeps freed memory, as a run
does: Banyan's loader (shuffled, with a thread of its own; without document ids, and with them), a loop over a memory
map as nanoGPT has it, and stock WebDataset over Banyan's own shards and over tars with a sample for each row.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks import report
from tests.benchmarks.case import Case
from tests.benchmarks.contest import ROOT, Contestant, compete
from tests.benchmarks.tokens import write_tokens
from trainer.config.ramps import Ramps
from trainer.machine.process import keep_freed_memory

LENGTH, ROWS, VOCABULARY = 1024, 8, 32000
SHUFFLE = 1000  # rows that WebDataset holds to shuffle


def banyan(folder: Path, *, with_ids: bool = False) -> Iterator[Any]:
    """Banyan's loader: batches in the order of a run."""
    from trainer.config import Data
    from trainer.data.tokens.datasets import open_training, weights_of
    from trainer.data.tokens.loader import Loader
    from trainer.data.tokens.order import Order, extend
    from trainer.objective.causal import Causal

    data = Data(path=str(folder / "shards"), sequence_length=LENGTH)
    datasets = open_training(data)
    counts = [dataset.rows for dataset in datasets]
    segments = extend([], first=0, rows=counts, weights=weights_of(data))
    order = Order(counts, segments, seed=0, window=data.shuffle_shards)
    objective = Causal(LENGTH, datasets[0].manifest.end_of_text if with_ids else None)
    return Loader(
        datasets, order, Ramps(ROWS), ROWS, 0, 1, to_batch=objective.to_batch, prefetch=data.prefetch
    ).batches(0)


def memory_map(folder: Path) -> Iterator[torch.Tensor]:
    """nanoGPT's way: rows from random places of one array."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    draw = np.random.default_rng(0)
    while True:
        starts = draw.integers(0, len(tokens) - LENGTH - 1, ROWS)
        yield torch.stack([torch.from_numpy(tokens[at : at + LENGTH + 1].astype(np.int64)) for at in starts])


def webdataset_blocks(folder: Path) -> Iterator[torch.Tensor]:
    """WebDataset over Banyan's shards, whose samples are blocks of documents, cut into rows."""
    import webdataset

    def cut(samples: Iterator[tuple]) -> Iterator[np.ndarray]:
        for (tokens,) in samples:
            for start in range(0, len(tokens) - LENGTH, LENGTH):
                yield tokens[start : start + LENGTH + 1].astype(np.int64)

    urls = sorted(map(str, (folder / "shards").glob("*.tar")))
    pipeline = webdataset.WebDataset(urls, shardshuffle=len(urls)).decode().to_tuple("tokens.npy")
    return iter(pipeline.compose(cut).shuffle(SHUFFLE).repeat().batched(ROWS, collation_fn=_stack))


def webdataset_rows(folder: Path) -> Iterator[torch.Tensor]:
    """WebDataset as its manual has it: a sample for each row."""
    import webdataset

    def wide(sample: tuple) -> np.ndarray:
        return sample[0].astype(np.int64)

    urls = sorted(map(str, (folder / "rows").glob("*.tar")))
    pipeline = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(SHUFFLE).decode().to_tuple("npy").map(wide)
    return iter(pipeline.repeat().batched(ROWS, collation_fn=_stack))


def _stack(rows: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows))


READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    "memory map, random rows": memory_map,
    "banyan": banyan,
    "banyan, document ids too": partial(banyan, with_ids=True),
    "WebDataset, Banyan's shards": webdataset_blocks,
    "WebDataset, a sample per row": webdataset_rows,
}


def write_rows(folder: Path, shards: int = 4) -> None:
    """The tokens as tars with a row of T + 1 in each sample."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    (folder / "rows").mkdir()
    starts = range(0, len(tokens) - LENGTH - 1, LENGTH)
    for number in range(shards):
        with tarfile.open(folder / "rows" / f"{number:03d}.tar", "w") as tar:
            for start in starts[number::shards]:
                file = io.BytesIO()
                np.save(file, tokens[start : start + LENGTH + 1])
                entry = tarfile.TarInfo(f"{start:012d}.npy")
                entry.size = file.tell()
                file.seek(0)
                tar.addfile(entry, file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures readers in turns, then a training run's waiting; prints both, writes JSON."""
    parser = argparse.ArgumentParser(
        prog="bench-data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=400, help="of a turn")
    parser.add_argument("--tiny", action="store_true", help="few tokens and a model of milliseconds")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args(arguments)
    facts = report.machine()
    with tempfile.TemporaryDirectory(prefix="bench-data-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=VOCABULARY, tokens=1 << (18 if options.tiny else 25))
        write_rows(folder)
        seconds = read_in_turns(folder, rounds=options.rounds, batches=options.batches)
    tokens = options.batches * ROWS * LENGTH
    base = seconds["memory map, random rows"]
    rows = []
    for reader, taken in seconds.items():
        against = [theirs[1] / ours[1] for ours, theirs in zip(taken, base, strict=True)]
        rates = [f"{statistics.median(tokens / 1e6 / pair[which] for pair in taken):.0f}" for which in (0, 1)]
        rows.append([reader, *rates, f"{statistics.median(against):.2f} ± {report.spread(against):.2f}"])
    print(f"\n{options.rounds} turns of {options.batches} batches of {ROWS} x {LENGTH + 1} tokens")
    print(report.machine_line(facts))
    print(report.show(["reader", "Mtok/s", "Mtok / CPU-s", "× memory map, by CPU"], rows), flush=True)
    share = waiting_share(tiny=options.tiny)
    print(f"\nof a training step of the demonstration's model, {share:.3%} is spent waiting for data")
    content = {"machine": facts, "tokens_per_turn": tokens, "wall_and_cpu_seconds": seconds, "waiting_share": share}
    report.write(options.output / "data.json", content)
    return 0


def read_in_turns(
    folder: Path, *, rounds: int, batches: int, readers: dict[str, Callable[[Path], Iterator[Any]]] = READERS
) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each reader's turns, after one that isn't counted."""
    torch.set_num_threads(1)
    keep_freed_memory()
    streams = {name: reader(folder) for name, reader in readers.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in streams}
    for number in range(rounds + 1):
        for name, stream in streams.items():
            wall, used = time.perf_counter(), time.process_time()
            for _ in range(batches):
                next(stream)
            if number > 0:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - used))
    return seconds


def waiting_share(*, tiny: bool) -> float:
    """The median share of a step that `banyan pretrain` waits for data, by its own metrics."""
    case = Case("waiting").shrunk() if tiny else Case("waiting")
    contestant = Contestant("banyan", "banyan", {"parallel.zero_stage": "0"})
    with tempfile.TemporaryDirectory(prefix="bench-data-") as name:
        folder = Path(name)
        write_tokens(folder, vocab_size=case.vocab_size, tokens=max(1 << 18, 64 * case.tokens))
        result = compete([contestant], case, folder, rounds=1, steps=40)[0]
        if result.failure:
            sys.exit(f"bench-data: {result.failure}")
        lines = next(folder.glob("run-*/metrics.jsonl")).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    shares = [row["perf/data_wait_seconds"] / row["perf/step_seconds"] for row in rows if row["step"] > 1]
    return statistics.median(shares)


if __name__ == "__main__":
    sys.exit(main())
