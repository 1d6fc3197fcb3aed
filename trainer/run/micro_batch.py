"""The micro-batch of a run: given, computed by default, or measured once and recorded (train.micro_batch_size=auto).

Of the sizes that fit, the fastest. What was chosen is written down in the run directory, so that a run which goes on in
the same layout takes the same micro-batches, and with them the same sums to the last bit.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.config import AUTO, Model, Pretrain
from trainer.config.ramps import common_batch
from trainer.errors import BanyanError, ConfigError, InputError, divisors
from trainer.machine.durable import write_json
from trainer.machine.environment import as_stored
from trainer.machine.json_file import Malformed, Positive, from_known, read_json
from trainer.planning.fit import default_micro_batch
from trainer.ranks.mesh import Mesh
from trainer.run.micro_batch_timing import OUT_OF_MEMORY, Timing
from trainer.run.sidecar import run_sidecars

FILE = "micro_batch.json"
BUDGET_S = 120.0  # after which no larger size is tried
LIMIT_S = 900.0  # after which what has been measured must do
NEARLY = 1.01  # a size this much slower than the fastest is as good, if it is smaller
KILLED = -9  # by the kernel, when the host's memory runs out
# What besides the layout decides how long a micro-batch takes; another choice of these is measured anew
DECISIVE_TRAIN = ("batch_size", "precision", "compile", "activation_checkpointing", "deterministic")


def find_micro_batch(config: Pretrain, model: Model, mesh: Mesh, run_dir: Path, device: str) -> int:
    """The run's micro-batch, in sequences a rank. Every rank calls it; it takes minutes where it has to measure.

    ConfigError if not even the smallest fits.
    """
    if config.train.micro_batch_size != AUTO:
        cuda = mesh.device.type == "cuda"
        memory = torch.cuda.get_device_properties(mesh.device).total_memory if cuda else None
        return default_micro_batch(config, mesh.world_size, cuda=cuda, memory=mesh.from_main(memory))
    circumstances = circumstances_of(config, mesh, device)
    known = mesh.main_finds(lambda: recorded(run_dir, circumstances, common_batch(config.train) // mesh.data_size))
    if known is not None:
        return known
    timings, too_large = measure_sizes(config, model, mesh, run_dir)
    chosen = choose_size(timings, common_batch(config.train) // mesh.data_size)
    if mesh.is_main:
        print(describe_choice(chosen, timings, too_large, common_batch(config.train) // mesh.data_size), flush=True)
        measured = [dataclasses.asdict(timing) for timing in timings]
        record = {"micro_batch_size": chosen, "circumstances": circumstances, "measured": measured}
        write_json(run_dir / FILE, record)
    return chosen


def circumstances_of(config: Pretrain, mesh: Mesh, device: str) -> dict[str, Any]:
    """All that decides which size is best, as JSON."""
    return {
        "world_size": mesh.world_size,
        "device": device,
        "parallel": as_stored(dataclasses.asdict(config.parallel)),
        "train": {key: getattr(config.train, key) for key in DECISIVE_TRAIN},
    }


@dataclass(frozen=True)
class MicroBatchRecord:
    """The content of micro_batch.json that counts; what was measured stands beside it, for people."""

    micro_batch_size: Positive
    circumstances: dict[str, Any]


def recorded(run_dir: Path, circumstances: dict[str, Any], share: int) -> int | None:
    """What an earlier start of the run chose in the same circumstances, for `share` sequences a rank.

    InputError if the file is broken, or what it holds can't have been chosen.
    """
    try:
        record = from_known(MicroBatchRecord, read_json(run_dir / FILE))
    except FileNotFoundError:
        return None
    except Malformed as error:
        raise InputError(f"{run_dir / FILE}: {error}; remove it, and it is measured again.") from error
    if record.circumstances != circumstances:
        return None
    if share % record.micro_batch_size:
        raise InputError(
            f"{run_dir / FILE}: {record.micro_batch_size} doesn't divide a rank's {share} sequences; remove it, and it "
            "is measured again."
        )
    return record.micro_batch_size


def measure_sizes(config: Pretrain, model: Model, mesh: Mesh, run_dir: Path) -> tuple[list[Timing], int | None]:
    """Timings of the sizes that fit, on every rank, and the size that didn't, if one was tried."""
    sizes = divisors(common_batch(config.train) // mesh.data_size)
    log = run_dir / "logs" / f"micro-batch-{mesh.rank:05d}.log"
    output = log.with_suffix(".jsonl")
    output.unlink(missing_ok=True)
    order = {
        "config": dataclasses.asdict(dataclasses.replace(config, model=model)),
        "sizes": sizes,
        "output": str(output),
        "budget_s": BUDGET_S,
    }
    codes = run_sidecars("trainer.run.micro_batch_timing", order, mesh, log, limit_s=LIMIT_S)
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    timings = [Timing(**fields) for fields in mesh.from_main([json.loads(line) for line in lines])]
    if any(codes):
        if OUT_OF_MEMORY not in codes and KILLED not in codes:
            culprit = next((rank for rank, code in enumerate(codes) if code > 0), 0)
            raise BanyanError(
                f"train.micro_batch_size={AUTO}: rank {culprit} failed to measure ({run_dir}/logs/"
                f"micro-batch-{culprit:05d}.log); set a number to go on without."
            )
        if not timings:
            raise ConfigError(
                f"train.micro_batch_size={AUTO}: not even {sizes[0]} sequence of {config.data.sequence_length} tokens "
                "fits; raise parallel.zero_stage, set train.activation_checkpointing=full, or use more ranks."
            )
        return timings, sizes[len(timings)]
    return timings, None


def step_seconds(timing: Timing, share: int) -> float:
    """Seconds of an optimiser step of `share` sequences a rank."""
    return (share // timing.size - 1) * timing.inner_s + timing.last_s


def choose_size(timings: list[Timing], share: int) -> int:
    """The smallest size whose step takes nearly no longer than the fastest's."""
    fastest = min(step_seconds(timing, share) for timing in timings)
    return next(timing.size for timing in timings if step_seconds(timing, share) <= NEARLY * fastest)


def describe_choice(chosen: int, timings: list[Timing], too_large: int | None, share: int) -> str:
    """What was measured and chosen, in a line."""
    each = [f"{timing.size}: {step_seconds(timing, share):.3g} s, {timing.bytes / 1e9:.1f} GB" for timing in timings]
    if too_large is not None:
        each.append(f"{too_large}: doesn't fit")
    return f"train.micro_batch_size={chosen}, of those measured a step ({'; '.join(each)})"
