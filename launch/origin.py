"""What model.init_from means for the model's other keys: the folder decides all that the user left alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from launch.overrides import Override, unquoted
from trainer.origin import find_origin


def sizes_from(overrides: Sequence[Override]) -> list[Override]:
    """Overrides that give the model the folder's sizes and name; none where `model=…` chose the sizes.

    A run that goes on doesn't need the folder any more: its sizes are in the run directory.
    """
    given = {override.name: unquoted(override.value) for override in overrides if override.prefix != "~"}
    path = given.get("model.init_from", "null")
    if path == "null" or "model" in given:
        return []
    origin = find_origin(path if Path(path).expanduser().is_dir() else _run_directory(given) or path)
    name = re.sub(r"[^\w.-]+", "-", Path(path).resolve().name).strip("-") or "custom"
    fields = {"name": name} | origin.architecture
    return [
        Override(f"model.{key}", "null" if value is None else str(value))
        for key, value in fields.items()
        if f"model.{key}" not in given
    ]


def _run_directory(given: dict[str, str]) -> str | None:
    run_dir = given.get("run.dir") or str(Path("runs") / given.get("run.name", "-"))
    return run_dir if (Path(run_dir) / "config.yaml").is_file() else None
