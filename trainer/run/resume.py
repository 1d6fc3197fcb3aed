"""Whether and where a run goes on: the newest whole checkpoint, and what may differ from it."""

from __future__ import annotations

import math
from pathlib import Path

from trainer.checkpoint.find import find_newest, find_problem
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.checkpoint.reader import CheckpointReader
from trainer.config import AUTO, Pretrain, as_stored_values
from trainer.config.plain_values import with_values
from trainer.config.ramps import Ramps
from trainer.config.values import check_values
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.datasets import widest
from trainer.data.tokens.history import History, total_steps_of
from trainer.data.tokens.mixture import mixture_in
from trainer.engine.loop import Progress
from trainer.errors import ConfigError, require
from trainer.ranks.mesh import Mesh
from trainer.run.directory import check_change


def find_resume(run_dir: Path, config: Pretrain, mesh: Mesh, training: list[Dataset]) -> CheckpointReader | None:
    """The newest whole checkpoint of the run, opened; before the first, what checkpoint.fork_from names, or None.

    ConfigError if this configuration or these data may not go on from it. Says what is skipped and what changed.
    A precision that is left to the run (AUTO) counts as the checkpoint's, here or on other devices.
    """
    folder, broken = find_newest(run_dir, mesh)
    forks = folder is None and config.checkpoint.fork_from is not None
    if forks:
        folder = find_fork(config, mesh)
    if folder is None:
        return None
    reader = CheckpointReader(folder)
    changes = check_fit(reader, config, training, forks=forks)
    if mesh.is_main:
        for line in broken:
            print(f"banyan: {line}", flush=True)
        for line in changes:
            print(f"changed since {folder.name}: {line}", flush=True)
    return reader


def check_fit(reader: CheckpointReader, config: Pretrain, training: list[Dataset], *, forks: bool) -> list[str]:
    """Lines about what changed since the checkpoint. ConfigError if the run may not go on from it."""
    before = reader.state["config"]
    config = with_kept_precision(config, reader)
    now = as_stored_values(config)
    if forks:  # what it was forked from itself doesn't matter
        before = {**before, "checkpoint": now["checkpoint"]}
        check_remains(config, reader)
    changes = check_change(before, now, allow=forks or config.run.allow_change)
    check_same_data(reader, config, training, allow=forks or config.run.allow_change)
    reader.stated("progress", Progress.from_json)
    return changes


def with_kept_precision(config: Pretrain, reader: CheckpointReader) -> Pretrain:
    """The configuration, whose precision is the checkpoint's where it was left to the run (AUTO)."""
    if config.train.precision != AUTO:
        return config
    config = with_values(config, {"train.precision": reader.state["config"]["train"]["precision"]})
    check_values(config.train, "train.")
    return config


def check_fetched(folder: Path, config: Pretrain, training: list[Dataset]) -> None:
    """Refuses a checkpoint from elsewhere that isn't one of this run, before it comes among the run's own."""
    check_fit(CheckpointReader(folder), config, training, forks=False)


def find_fork(config: Pretrain, mesh: Mesh) -> Path:
    """The checkpoint that checkpoint.fork_from names. ConfigError or InputError if there is none, or not whole."""
    given = str(config.checkpoint.fork_from)
    path, _, step = given.partition("@")
    require(
        Path(path).is_dir() and (step.isdecimal() or not step),
        f"checkpoint.fork_from={given}: give a run directory that there is, or RUN_DIR@STEP.",
    )
    if not step:
        newest, _ = find_newest(Path(path), mesh)
        require(newest is not None, f"checkpoint.fork_from={given}: the run has no checkpoint yet; choose another.")
        assert newest is not None
        return newest
    folder = folder_of(Path(path), int(step))
    steps = ", ".join(map(str, mesh.from_main(list_steps(Path(path))))) or "none"
    require(folder.is_dir(), f"checkpoint.fork_from={given}: no checkpoint of that step; there are {steps}.")
    problem = mesh.first(find_problem(folder, part=mesh.rank, parts=mesh.world_size))
    require(problem is None, f"checkpoint.fork_from={given}: not whole ({problem}); choose one of {steps}.")
    return folder


def check_remains(config: Pretrain, reader: CheckpointReader) -> None:
    """Refuses a fork that has nothing to train after the checkpoint that it begins with."""
    step = reader.state["step"]
    history = reader.stated("history", History.from_json).at_steps(step=step, ramps=Ramps.of(config.train, config.data))
    last = min(total_steps_of(config, history), config.train.stop_at or math.inf)
    require(
        step < last,
        f"checkpoint.fork_from={config.checkpoint.fork_from}: at step {step} already, and this run ends at {last}; "
        "raise train.steps (or train.tokens, train.stop_at), or fork from an earlier step.",
    )


def check_same_data(reader: CheckpointReader, config: Pretrain, training: list[Dataset], *, allow: bool) -> None:
    """Refuses another tokenizer; and other data or weights unless they are allowed and open a new segment."""
    manifest = widest(training).manifest
    if reader.state["tokenizer_sha256"] != manifest.tokenizer_sha256:
        raise ConfigError(
            f"{manifest.folder}: written with another tokenizer than the run's; prepare it with "
            f"data.tokenizer.path={reader.folder.parent.parent / 'tokenizer'}, or begin another run with run.name."
        )
    history = reader.stated("history", History.from_json)
    position = reader.stated("progress", Progress.from_json).position
    rows = [dataset.rows for dataset in training]
    now, _ = mixture_in(config.data, rows).lay_out(history.segments, first=position, rows=rows)
    if now != history.segments and not allow:
        raise ConfigError(
            "the training data or their weights aren't the checkpoint's (fingerprints or shares differ): mend "
            "data.path, data.train or data.stages, or set run.allow_change=true to go on with the new ones from here."
        )
