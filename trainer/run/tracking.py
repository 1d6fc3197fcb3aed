"""What a run logs, and to whom: the tracker with what is known at the start, and what MFU is reckoned with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import torch

from trainer.config import Model, Pretrain, as_stored_values
from trainer.config.batches import padding_of
from trainer.config.plain_values import with_values
from trainer.data.tokens.dataset import Dataset
from trainer.engine.bf16 import device_multiplies_bf16
from trainer.engine.loop import Progress, Utilisation
from trainer.model.build import attention_sizes
from trainer.ranks.mesh import Mesh
from trainer.run import directory as run_directory
from trainer.run.lineage import data_references, newest_complete
from trainer.track.lineage import DATA_FACT
from trainer.track.metrics import flops_per_token, peak_flops
from trainer.track.sinks.sink import Start
from trainer.track.spike_record import Documents
from trainer.track.spikes import SpikeRule, SpikeWatch
from trainer.track.tracker import Tracker


def device_name(mesh: Mesh) -> str:
    """What the ranks run on: a GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if mesh.device.type == "cuda" else "cpu"


def measure_utilisation(config: Pretrain, model: Model, mesh: Mesh, active: int) -> Utilisation | None:
    """What MFU is reckoned with; None where the device's peak isn't known, as on a CPU, or the model's FLOPs aren't."""
    peak = peak_flops(torch.cuda.get_device_name()) if mesh.device.type == "cuda" else None
    if peak is None or attention_sizes(model) is None:
        return None

    def per_token(length: int) -> float:
        return flops_of_token(with_values(config, {"data.sequence_length": length}), model, active) or 0.0

    return Utilisation(flops_per_token=per_token, peak_flops_per_second=peak * mesh.world_size)


def flops_of_token(config: Pretrain, model: Model, active: int) -> float | None:
    """Model FLOPs of forward and backward of a token; None where the model's sizes aren't known."""
    sizes = attention_sizes(model)
    if sizes is None:
        return None
    layers, heads, head_dim = sizes
    return flops_per_token(
        parameters=active,
        layers=layers,
        heads=heads,
        head_dim=head_dim,
        sequence_length=config.data.sequence_length,
    )


def open_tracker(
    run_dir: Path,
    config: Pretrain,
    model: Model,
    mesh: Mesh,
    datasets: list[Dataset],
    sizes: tuple[int, int],
    progress: Progress,
    total_steps: int,
    documents: Documents,
) -> Tracker | None:
    """Rank 0's tracker, after a line that says what begins; None on other ranks. `sizes`: parameters, active ones.

    `documents` finds those of a spike.
    """
    if not mesh.is_main:
        return None
    parameters, active = sizes
    facts = {
        DATA_FACT: [asdict(reference) for reference in data_references([each.manifest for each in datasets])],
        "fingerprints": {dataset.name: dataset.manifest.fingerprint for dataset in datasets},
        "git_commit": run_directory.git_commit(),
        "world_size": mesh.world_size,
        "device": device_name(mesh),
        "parameters": parameters,
        "active_parameters": active,
        "flops_per_token": flops_of_token(config, model, active),
    }
    size = f"{parameters / 1e6:.1f}M parameters"
    if active < parameters:
        size += f" ({active / 1e6:.1f}M active per token)"
    ranks = f"{mesh.world_size} rank{'s' * (mesh.world_size > 1)}"
    degrees = {"tensor": mesh.tensor, "sequence": mesh.sequence}
    shared = "".join(f", {name} parallel {degree}" for name, degree in degrees.items() if degree > 1)
    padding = padding_of(config, mesh.data_size)
    waste = f", {padding:.0%} of each step's micro-batches empty" if padding > 0 else ""
    print(
        f"{config.model.name}: {size} on {ranks} ({facts['device']}), ZeRO stage {config.parallel.zero_stage}{shared}, "
        f"{config.train.precision}{waste}; run directory {run_dir}",
        flush=True,
    )
    if config.train.precision == "fp32" and device_multiplies_bf16(mesh.device):
        print("bf16 is native here and should be faster: train.precision=bf16")
    return Tracker.open(
        Start(run_dir, config, as_stored_values(config), facts, start_step=progress.step, total_steps=total_steps),
        documents,
    )


def open_spike_watch(config: Pretrain, tracker: Tracker | None, progress: Progress) -> SpikeWatch | None:
    """What tells spikes of logged values, of which it knows those of earlier starts; None on ranks other than 0, and
    where every step is judged on the device."""
    if tracker is None or config.health.on_spike != "log":
        return None
    rule, every = SpikeRule(config.health.sigma, config.health.window), config.track.every
    rows = tracker.logged_after(max(0, progress.step - (rule.window + 1) * every)) if progress.step else []
    return SpikeWatch(rule, every, rows)


@contextlib.contextmanager
def closing(tracker: Tracker | None, run_dir: Path) -> Iterator[SimpleNamespace]:
    """Closes the tracker with the exit code that the body leaves in what it is given: 1 if it raises.

    Before that it names the run's newest checkpoint to it.
    """
    ending = SimpleNamespace(exit_code=1)
    try:
        yield ending
    finally:
        if tracker is not None:
            newest = newest_complete(run_dir)
            if newest is not None:
                tracker.checkpoint(*newest)
            tracker.close(exit_code=ending.exit_code, summary={})
