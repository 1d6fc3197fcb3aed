"""Paths of a job on Ray: the same files must be under them on every node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.checkpoint.folders import list_steps
from trainer.config import Data, Generate, Prepare
from trainer.errors import ConfigError

COPIES = "runtime_resources/working_dir_files"
"""Part of the path of the folder that a submitted job starts in: a copy of --working-dir, on each node another."""


def folder_of_ranks(config: Any) -> str | None:
    """Where ranks must stand for relative paths to mean what they mean here; None: wherever their worker is.

    ConfigError for a relative path in a submitted job: what is written to the copy of --working-dir is lost.
    """
    here = os.getcwd()
    if COPIES not in here:
        return here
    for key, path in _paths(config):
        if path is None or not (path.startswith(("/", "~", "pipe:")) or "://" in path):
            said = f"{key}={path} is relative" if path is not None else f"{key} is not set"
            raise ConfigError(
                f"{said}, and this job stands in a copy of --working-dir that Ray deletes: "
                f"give an absolute path on storage that all nodes share, as {key}=/shared/…"
            )
    return None


def _paths(config: Any) -> Iterator[tuple[str, str | None]]:
    """Every path of a configuration, by key; None for the run directory's default, which is relative."""
    is_prepare = isinstance(config, Prepare)
    if isinstance(config, Generate):
        given = {"run.dir": config.run.dir, "path": config.path, "prompts": config.prompts, "output": config.output}
        yield from ((key, path) for key, path in given.items() if path)
        return
    if not is_prepare:
        yield "run.dir", config.run.dir
    if hasattr(config, "model") and config.model.init_from:
        yield "model.init_from", config.model.init_from
    if hasattr(config, "objective") and config.objective.teacher:
        yield "objective.teacher", config.objective.teacher
    data: Data = config.data
    if is_prepare:
        yield "data.output", data.output
        yield from (("data.input", path) for path in data.input)
        if data.tokenizer.path:
            yield "data.tokenizer.path", data.tokenizer.path
        yield from ((f"data.{key}", getattr(data, key)) for key in ("reference", "teacher") if getattr(data, key))
        return
    if data.path:
        yield "data.path", data.path
    for group, sets in (("train", data.train), ("validation", data.validation)):
        yield from ((f"data.{group}.{name}.path", entry.path) for name, entry in sets.items())


def newest_listed_step(run_dir: Path | None) -> int:
    """Step of the newest checkpoint that has its name, and so is whole; 0 before the first, and without a run."""
    return max(list_steps(run_dir), default=0) if run_dir else 0
