"""Data, and what is made of a run's checkpoints, in W&B's lineage: evaluations and exports by a run that used them.

RUN_DIR/lineage/WHAT holds what W&B keeps of such a run. Nothing is recorded where nobody asked for W&B (a key, a mode),
and what W&B refuses costs a line, no result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.checkpoint.complete import COMPLETE
from trainer.checkpoint.folders import step_of
from trainer.config import Export, Pretrain, Wandb
from trainer.machine.durable import make_folder
from trainer.machine.terminal import one_line, show
from trainer.run.directory import read_config
from trainer.track.lineage import (
    ArtifactRecord,
    DataReference,
    checkpoint_artifact,
    evaluation_artifact,
    export_artifact,
)
from trainer.track.sinks.wandb_run import WandbSettings, start_run
from trainer.track.wandb_service import WandbError, asked_mode

FOLDER = "lineage"
DATA_TIMEOUT_S = 120.0  # the longest wait for the upload of what data have


def record_evaluation(checkpoint: Path, results: Path, figures: Mapping[str, Any], asked: Wandb) -> None:
    """Records an evaluation of a checkpoint, by its file of results."""
    numbers = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}

    def made(run_id: str, step: int) -> ArtifactRecord:
        return evaluation_artifact(results, run_id=run_id, step=step, figures=numbers)

    _record("evaluate", [checkpoint], made, asked, numbers)


def record_export(checkpoints: Sequence[Path], folder: Path, config: Export) -> None:
    """Records an export of the mean of checkpoints, the newest first. Weights are uploaded by export.upload alone."""

    def made(run_id: str, step: int) -> ArtifactRecord:
        steps = [_step_of(each) for each in checkpoints]
        return export_artifact(folder, run_id=run_id, form=config.format, steps=steps, upload=config.export.upload)

    _record(f"export-{config.format}", checkpoints, made, config.track.wandb, {})


def record_data(reference: DataReference, artifact: ArtifactRecord, folder: Path, settings: Wandb, mode: str) -> int:
    """Records data as an artifact that a W&B run of its own, kept in `folder`, has made; the exit code."""
    plan = WandbSettings(
        run_dir=folder,
        name=artifact.name,
        settings=settings,
        config={"data": dataclasses.asdict(reference)},
        finish_timeout_s=DATA_TIMEOUT_S,
    )
    run = start_run(plan, mode, say=_say)
    logged = run.record_artifact(artifact, is_input=False)
    complete = run.close(exit_code=0, summary={"documents": reference.documents, "tokens": reference.tokens})
    if mode == "online":
        _say(f"artifact   {artifact.name}: {run.url}")
        return 0 if complete and logged else 1
    _say(f"artifact   {artifact.name}; upload it with: wandb sync {run.folder}")
    return 0


def _record(
    job: str,
    checkpoints: Sequence[Path],
    made: Callable[[str, int], ArtifactRecord],
    asked: Wandb,
    figures: Mapping[str, float],
) -> None:
    """A W&B run that used the checkpoints and has made an artifact; `made` gives it, by the trainer's id and step."""
    run_dir, step = checkpoints[0].parents[1], _step_of(checkpoints[0])
    config = read_config(run_dir)
    settings = _settings_of(config, asked)
    mode = asked_mode(settings)
    if mode is None:
        return
    name = config.run.name or run_dir.resolve().name
    folder = run_dir / FOLDER / f"{job}-{checkpoints[0].name}"
    make_folder(folder)
    trained = WandbSettings(run_dir=run_dir, name=name, settings=settings, config={})
    grouped = dataclasses.replace(settings, group=settings.group or name)
    stated = {"run": {"dir": str(run_dir), "name": name}, "checkpoint": {"step": step}}
    plan = WandbSettings(folder, f"{job} {name} step {step}", grouped, stated, job=job.partition("-")[0])
    try:
        run = start_run(plan, mode, say=_say)
    except WandbError as error:
        _say(f"{error} The lineage lacks this.")
        return
    used = [checkpoint_artifact(each / COMPLETE, _step_of(each), trained.run_id) for each in checkpoints]
    recorded = [run.record_artifact(each, is_input=True) for each in used]
    artifact = made(trained.run_id, step)
    recorded.append(run.record_artifact(artifact, is_input=False))
    whole = run.close(exit_code=0, summary=figures) or not run.online
    if all(recorded) and whole:
        where = run.url if mode == "online" else f"upload it with: wandb sync {run.folder}"
        _say(f"lineage  {artifact.name}: {where}")


def _settings_of(config: Pretrain, asked: Wandb) -> Wandb:
    """The run's own, changed by what is asked for, but for the mode: of that, off stays off unless another is asked."""
    own, default = config.track.wandb, Wandb()
    given = {name: value for name, value in vars(asked).items() if value != getattr(default, name)}
    kept = "disabled" if own.mode == "disabled" else "auto"
    return dataclasses.replace(own, **{"mode": kept, **given})


def _step_of(checkpoint: Path) -> int:
    return step_of(checkpoint.name) or 0


def _say(line: str) -> None:
    show(one_line(line))
