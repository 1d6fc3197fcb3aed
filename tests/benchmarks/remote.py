"""`python -m tests.benchmarks.remote`: how long training waits for token shards that a slow store has.

python -m tests.benchmarks.remote [--tokens_per_second 1000000] [--seconds 60] [--nodes 1] [--tiny]

A process serves shards by HTTP as a store would that is 50 ± 25 ms away, fails one request in a hundred and has a link
of so many megabytes a second. Batches are taken at a steady pace, as by a step that computes in between; what is
measured is how long each is waited for once the first has come, as a share of all time, and the wait for the first.
With more nodes it is one of them, which takes its share of each batch; the tokens a second are all nodes' together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.tokens import write_tokens
from tests.data.remote.store import Store, serving

LENGTH, ROWS, VOCABULARY = 1024, 16, 32000
LATENCY_S, JITTER_S, FAILING = 0.05, 0.025, 0.01


def serve(folder: Path, bytes_per_second: float, pipe: Any) -> None:
    """Serves a folder until the pipe closes."""
    store = Store(folder, latency_s=LATENCY_S, jitter_s=JITTER_S, failing=FAILING, bytes_per_second=bytes_per_second)
    with serving(store) as url:
        pipe.send(url)
        pipe.poll(None)
        pipe.send((len(store.asked), store.sent))


def take_batches(
    path: str, cache: Path | None, *, cache_bytes: int, tokens_per_second: float, seconds: float, nodes: int
) -> dict[str, Any]:
    """Takes batches at a pace; what was waited for."""
    from trainer.config import Data
    from trainer.config.ramps import Ramps
    from trainer.data.tokens.datasets import look_ahead, open_training
    from trainer.data.tokens.history import History
    from trainer.data.tokens.loader import Loader
    from trainer.data.tokens.mixture import mixture_in
    from trainer.data.tokens.order import Order
    from trainer.objective.causal import Causal

    data = Data(
        path=path, sequence_length=LENGTH, shuffle_shards=4, cache=cache and str(cache), cache_bytes=cache_bytes
    )
    began = time.perf_counter()
    datasets = open_training(data)
    counts = [dataset.rows for dataset in datasets]
    batch, mixture = ROWS * nodes, mixture_in(data, counts)
    history = History([], []).go_on(step=0, position=0, ramps=Ramps(batch), rows=counts, mixture=mixture)
    order = Order(counts, history.segments, seed=0, window=4)
    step_s = batch * LENGTH / tokens_per_second
    steps = int(seconds / step_s)
    lookahead = look_ahead(datasets, order, start=0, stop=(steps + 1) * batch)
    to_batch = Causal(LENGTH, None).to_batch
    batches = Loader(
        datasets, order, Ramps(batch), ROWS, 0, nodes, to_batch, data.prefetch, lookahead=lookahead
    ).batches(0)
    next(batches)
    first_s = time.perf_counter() - began
    waits, started = [], time.perf_counter()
    for step in range(steps):
        time.sleep(max(0.0, started + (step + 1) * step_s - time.perf_counter()))
        asked = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - asked)
    whole = time.perf_counter() - started
    return {
        "tokens_per_second": steps * batch * LENGTH / whole,
        "wait_share": sum(waits) / whole,
        "longest_wait_ms": 1000 * max(waits),
        "median_wait_ms": 1000 * statistics.median(waits),
        "first_batch_s": first_s,
        "epochs": steps * batch / datasets[0].rows.total,
        "bytes_of_rows": (steps + 1) * ROWS * (LENGTH + 1) * 2,
    }


def main() -> None:
    """Serves, takes, and prints what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens_per_second", type=float, default=1e6)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--megabytes_per_second", type=float, default=20)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    tokens = 2**20 if given.tiny else 2**25
    seconds = 2.0 if given.tiny else given.seconds
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / "data"
        write_tokens(folder, vocab_size=VOCABULARY, tokens=tokens, shards=32)
        shards = sum(path.stat().st_size for path in (folder / "shards").glob("*.tar"))
        here, there = multiprocessing.get_context("spawn").Pipe()
        context = multiprocessing.get_context("spawn")
        server = context.Process(target=serve, args=(folder / "shards", given.megabytes_per_second * 1e6, there))
        server.start()
        pace: dict[str, Any] = {"cache_bytes": shards // 2, "seconds": seconds, "nodes": given.nodes}
        pace["tokens_per_second"] = 1e5 if given.tiny else given.tokens_per_second
        local = take_batches(str(folder / "shards"), None, **pace)
        found = take_batches(here.recv(), Path(scratch) / "cache", **pace)
        here.send(None)
        found["requests"], found["bytes"] = here.recv()
        server.join()
    print(json.dumps({"data_bytes": shards, **pace, "from the folder": local, "from the store": found}, indent=1))


if __name__ == "__main__":
    main()
