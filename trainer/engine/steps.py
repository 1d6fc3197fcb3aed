"""Where the checkpoints of a run are, by step."""

from __future__ import annotations

import re
from pathlib import Path

NAME = re.compile(r"step-(\d{8})")
PARTIAL = re.compile(r"step-\d{8}\.partial-\w+")


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of `step` is, once it is whole."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def list_steps(run_dir: Path) -> list[int]:
    """Steps that have a folder, whole or not, in ascending order."""
    root = run_dir / "checkpoints"
    names = [NAME.fullmatch(entry.name) for entry in root.iterdir()] if root.is_dir() else []
    return sorted(int(match.group(1)) for match in names if match)
