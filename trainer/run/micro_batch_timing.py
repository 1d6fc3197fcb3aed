"""`python -m trainer.run.micro_batch_timing`, beside a rank: what micro-batches of several sizes take, and which fit.

The model is the run's, in the run's layout; tokens are drawn at random, and what is learnt of them is thrown away.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from trainer.config import Pretrain
from trainer.config.plain_values import with_values
from trainer.config.stored import from_values
from trainer.data.tokens.loader import Batch
from trainer.engine.assemble import assemble, compile_parts
from trainer.engine.deepspeed import fragments
from trainer.engine.initial_weights import seeded_weights
from trainer.engine.sequence import own_part
from trainer.model.build import parameter_shapes
from trainer.objective.build import Objective
from trainer.objective.causal import Causal
from trainer.ranks.mesh import Mesh, join, seed_everything
from trainer.run.sidecar import read_order

OUT_OF_MEMORY = 3
"""Exit code of a rank for which a size was too much."""

REFUSALS = ("out of memory", "not enough memory", "can't allocate memory")  # torch's words, on GPUs and CPUs
REPEATS = 3
PATIENCE = 2  # sizes in a row that are slower per sequence than the fastest so far: then larger ones aren't tried
SLOWER = 1.05
FREE_SHARE = 0.03  # of a GPU's memory, to be left by a size that fits: evaluation and fragments come on top
HOST_SHARE = 0.9  # of the host's free memory that the next size may be expected to take


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of a micro-batch of `size` sequences a rank: seconds of one that only adds to the gradients, and of the last of a
    step, with the optimiser's part; the slowest rank's. `bytes`: the peak of the rank that needs most."""

    size: int
    inner_s: float
    last_s: float
    bytes: int


def main() -> int:
    """Measures sizes as ordered; each as a line of JSON in the file that rank 0 was given."""
    order = read_order()
    try:
        for timing in measure_all(configuration(order["config"]), order["sizes"], order["budget_s"]):
            if os.environ["RANK"] == "0":
                with Path(order["output"]).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(dataclasses.asdict(timing)) + "\n")
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in REFUSALS):
            print(error, file=sys.stderr, flush=True)
            os._exit(OUT_OF_MEMORY)  # nothing that waits for peers may keep it
        raise
    return 0


def configuration(values: dict[str, Any]) -> Pretrain:
    """The run's configuration, from JSON."""
    return from_values(Pretrain, values)


def measure_all(config: Pretrain, sizes: list[int], budget_s: float) -> Iterator[Timing]:
    """Timings of `sizes`, ascending, until larger ones have long been slower or `budget_s` is over, in
    which compiling doesn't count.

    MemoryError, or torch's own, at the first that doesn't fit.
    """
    mesh = join(tensor=config.parallel.tensor, sequence=config.parallel.sequence)
    seed_everything(config.seed, deterministic=config.train.deterministic)
    began = time.monotonic()
    smallest = {"train.micro_batch_size": sizes[0], "train.batch_size": 2 * sizes[0] * mesh.data_size}
    config = with_values(config, smallest)
    shapes = parameter_shapes(config.model)
    assembly = assemble(config, config.model, shapes, mesh)
    engine = assembly.engine
    fragments.restore(engine, assembly.partition, seeded_weights(config.model, config.seed), steps=0)
    if config.train.compile:
        compile_parts(engine.module, dynamic=False)  # the run will have one size
    fastest, slower, before, warming = float("inf"), 0, 0, 0.0
    for number, size in enumerate(sizes):
        if config.train.compile and number > 0:
            torch._dynamo.reset()  # or the graphs of earlier sizes would count against the limit of recompilations
        timing, first_s = measure_steps(engine, config, mesh, size)
        warming += first_s if config.train.compile else 0.0
        if not _is_room_left(mesh):
            raise MemoryError(f"{size} sequences leave less than {FREE_SHARE:.0%} of the device free")
        yield timing
        per_sequence = timing.inner_s / size
        slower = slower + 1 if per_sequence > SLOWER * fastest else 0
        fastest = min(fastest, per_sequence)
        late = _largest(time.monotonic() - began - warming, mesh) > budget_s
        growth = (timing.bytes - before) / (size - sizes[number - 1]) if number > 0 else 0
        before = timing.bytes
        following = sizes[number + 1] if number + 1 < len(sizes) else size
        if late or slower >= PATIENCE or not _host_has(growth * (following - size), mesh):
            return


def measure_steps(engine: Any, config: Pretrain, mesh: Mesh, size: int) -> tuple[Timing, float]:
    """Takes steps of two micro-batches; the first warms up, and compiles. And how long that took, in seconds."""
    if mesh.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    batch = own_part(random_batch(config, size, mesh), mesh).to(mesh.device)
    scale = 1.0 / (2 * size * config.data.sequence_length)
    objective = Causal(config.data.sequence_length, None)  # the batch is made: others are refused
    inner, last = [], []
    for _ in range(1 + REPEATS):
        inner.append(_timed(engine, objective, batch, scale, mesh))
        last.append(_timed(engine, objective, batch, scale, mesh))
    timing = Timing(
        size=size,
        inner_s=_largest(statistics.median(inner[1:]), mesh),
        last_s=_largest(statistics.median(last[1:]), mesh),
        bytes=int(_largest(_peak_bytes(mesh), mesh)),
    )
    return timing, inner[0] + last[0]


def random_batch(config: Pretrain, size: int, mesh: Mesh) -> Batch:
    """Tokens drawn at random, the same for ranks that share layers or rows; four documents a row."""
    time_steps = config.data.sequence_length
    generator = torch.Generator().manual_seed(mesh.data_rank)
    vocab_size = config.model.vocab_size
    assert vocab_size is not None
    tokens = torch.randint(vocab_size, (size, time_steps + 1), generator=generator)
    ids = (torch.arange(time_steps) * 4 // time_steps).expand(size, -1).contiguous()
    return Batch(tokens[:, :-1], tokens[:, 1:], ids if config.data.separates_documents else None, np.arange(size))


def _timed(engine: Any, objective: Objective, batch: Batch, scale: float, mesh: Mesh) -> float:
    """Seconds of a micro-step, which is an optimiser step where DeepSpeed counts that many."""
    _synchronise(mesh)
    began = time.perf_counter()
    engine.backward(objective.losses(engine, batch).rows.sum() * scale)
    engine.step()
    _synchronise(mesh)
    return time.perf_counter() - began


def _synchronise(mesh: Mesh) -> None:
    if mesh.device.type == "cuda":
        torch.cuda.synchronize()


def _peak_bytes(mesh: Mesh) -> int:
    if mesh.device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _is_room_left(mesh: Mesh) -> bool:
    if mesh.device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info()
    return free >= FREE_SHARE * total


def _host_has(more_bytes: float, mesh: Mesh) -> bool:
    """Whether a CPU's memory has room for so much more in each rank here; a GPU raises by itself."""
    if mesh.device.type == "cuda":
        return True
    import psutil

    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = more_bytes * ranks_here / (HOST_SHARE * psutil.virtual_memory().available)
    return _largest(needed, mesh) <= 1


def _largest(value: float, mesh: Mesh) -> float:
    box = torch.tensor(value, dtype=torch.float64)
    if mesh.world_size > 1:
        torch.distributed.all_reduce(box, op=torch.distributed.ReduceOp.MAX, group=mesh.control)
    return box.item()


if __name__ == "__main__":
    sys.exit(main())
