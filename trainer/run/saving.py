"""What a run saves: fragments of weights and moments, what hooks keep of them, and the state beside."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.writer import CheckpointWriter
from trainer.config import Pretrain, as_stored_values
from trainer.engine.assemble import Assembly
from trainer.engine.deepspeed import fragments
from trainer.engine.energy_use import open_energy_use
from trainer.engine.expert_load import ExpertLoad
from trainer.engine.hooks import Hook
from trainer.engine.loop import Progress
from trainer.engine.weight_average import WeightAverage
from trainer.ranks.mesh import Mesh


def build_hooks(config: Pretrain, assembly: Assembly, mesh: Mesh, progress: Progress, run_dir: Path) -> list[Hook]:
    """What goes along with the training of this run."""
    hooks: list[Hook] = []
    if config.train.ema is not None:
        held = fragments.held_fragments(assembly.engine, assembly.partition, moments=False)
        hooks.append(WeightAverage(held, config.train.ema))
    if assembly.model.tally is not None:
        hooks.append(ExpertLoad(assembly.model.tally, mesh))
    energy = open_energy_use(config.track.energy, mesh, progress, run_dir)
    if energy is not None:
        hooks.append(energy)
    return hooks


def fragments_to_save(assembly: Assembly, mesh: Mesh, hooks: list[Hook]) -> Iterator[Fragment]:
    """What this rank saves: weights, moments, and what the hooks keep of them."""

    def extend(fragment: Fragment) -> Fragment:
        for hook in hooks:
            fragment = hook.extend(fragment)
        return fragment

    return fragments.owned_fragments(assembly.engine, assembly.partition, mesh, extend)


def save(
    writer: CheckpointWriter,
    config: Pretrain,
    mesh: Mesh,
    owned: Iterator[Fragment],
    progress: Progress,
    data_state: dict[str, Any],
    *,
    last: bool,
) -> None:
    """Begins a checkpoint of `progress`; with `last`, ends it too. Every rank calls it."""
    state = {
        "step": progress.step,
        "position": progress.position,
        "tokens": progress.tokens,
        "progress": progress.to_json(),
        "shape": {"world_size": mesh.world_size, **dataclasses.asdict(config.parallel)},
        "config": as_stored_values(config),
        "time": time.time(),
        **data_state,
    }
    best = progress.best_step if config.checkpoint.keep_best else None
    writer.save(owned, state, best=best, last=last)
