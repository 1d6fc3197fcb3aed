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
from trainer.data.tokens.dataset import (
    Dataset,
)
from trainer.engine.bf16 import device_multiplies_bf16
from trainer.engine.loop import Progress, Utilisation
from trainer.model.build import attention_sizes
from trainer.ranks.mesh import Mesh
from trainer.run import directory as run_directory
from trainer.run.lineage import data_references, newest_complete
from trainer.track.lineage import DATA_FACT
from trainer.track.metrics import flops_per_token, peak_flops
from trainer.track.sinks.journal import read_metrics
from trainer.track.sinks.sink import Start
from trainer.track.spikes import WINDOW, SpikeWatch
from trainer.track.tracker import Tracker


def device_name(mesh: Mesh) -> str:
    """What the ranks run on: a GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if mesh.device.type == "cuda" else "cpu"


def measure_utilisation(config: Pretrain, model: Model, mesh: Mesh, active: int) -> Utilisation | None:
    """What MFU is reckoned with; None where the device's peak isn't known, as on a CPU, or the model's FLOPs aren't."""
    peak = peak_flops(torch.cuda.get_device_name()) if mesh.device.type == "cuda" else None
    sizes = attention_sizes(model)
    if peak is None or sizes is None:
        return None
    layers, heads, head_dim = sizes
    per_token = flops_per_token(
        parameters=active,
        layers=layers,
        heads=heads,
        head_dim=head_dim,
        sequence_length=config.data.sequence_length,
    )
    return Utilisation(flops_per_token=per_token, peak_flops_per_second=peak * mesh.world_size)


def open_tracker(
    run_dir: Path,
    config: Pretrain,
    mesh: Mesh,
    datasets: list[Dataset],
    sizes: tuple[int, int],
    progress: Progress,
    total_steps: int,
) -> Tracker | None:
    """Rank 0's tracker, after a line that says what begins; None on other ranks. `sizes`: parameters, active ones."""
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
        Start(run_dir, config, as_stored_values(config), facts, start_step=progress.step, total_steps=total_steps)
    )


def open_spike_watch(config: Pretrain, run_dir: Path, progress: Progress) -> SpikeWatch:
    """What tells spikes of logged values; it knows those of earlier starts."""
    every = config.track.every
    rows = read_metrics(run_dir, after=max(0, progress.step - (WINDOW + 1) * every)) if progress.step else []
    return SpikeWatch(every, rows)


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
