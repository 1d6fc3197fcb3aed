"""Compares what checkpoints hold."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.reader import CheckpointReader


def read_state(run_dir: Path, step: int | None = None) -> dict[tuple[str, str], torch.Tensor]:
    """Every weight and moment of a checkpoint, whole, by (parameter, kind)."""
    reader = CheckpointReader(find_checkpoint(run_dir, step))
    return {(name, kind): reader.read_whole(name, kind) for name, kind in reader.kinds}


def assert_equal_states(left: Path, right: Path) -> None:
    """Fails unless the newest checkpoints of two runs hold the same bits."""
    one, two = read_state(left), read_state(right)
    assert one.keys() == two.keys()
    different = [key for key in one if not torch.equal(one[key], two[key])]
    assert not different
