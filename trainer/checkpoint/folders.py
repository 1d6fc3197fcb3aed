"""Where the checkpoints of a run are, by step."""

from __future__ import annotations

import re
from pathlib import Path

NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,14})")  # eight digits, or more where the number needs them
PARTIAL = re.compile(rf"{NAME.pattern}\.partial-\w+")


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of `step` is, once it is whole."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder of this name; None if it is no such name."""
    match = NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def list_steps(run_dir: Path) -> list[int]:
    """Steps that have a folder, whole or not, in ascending order."""
    root = run_dir / "checkpoints"
    steps = [step_of(entry.name) for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    return sorted(step for step in steps if step is not None)
