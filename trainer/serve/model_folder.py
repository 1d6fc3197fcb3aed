"""What is served, as a Hugging Face folder that any engine reads: a folder as it is, or a run's checkpoint, exported.

An export is made once for each checkpoint and kept in the run directory; that of a folder in other precisions, in the
cache folder. Both are made by `banyan export` in a process of its own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.folders import step_of
from trainer.config import Checkpoint, Run
from trainer.errors import ConfigError, InputError, require
from trainer.machine.cache_folder import cache_folder
from trainer.machine.hub_name import local_folder
from trainer.machine.sealing.keyring import KEYRING
from trainer.model.hugging_face.config_json import read_json_object
from trainer.model.hugging_face.folder import CONFIG
from trainer.model.hugging_face.heads import CAUSAL, HEADS
from trainer.model.hugging_face.int8_weights import is_int8
from trainer.run.directory import read_config, require_run_dir

RUNS = Path("runs")
EXPORTS = "serve"  # in a run directory


@dataclass(frozen=True)
class ModelFolder:
    """A Hugging Face folder of a causal model. `run_dir` and `step` are of the run that it came from, if one did."""

    folder: Path
    name: str
    run_dir: Path | None = None
    step: int | None = None
    own: bool = False  # whether it was exported by us, so that texts begin as in training

    @property
    def is_int8(self) -> bool:
        """Whether its weights are in 8 bits."""
        return is_int8(read_json_object(self.folder / CONFIG), self.folder / CONFIG)

    def card(self) -> str:
        """Its README.md, as text."""
        try:
            return (self.folder / "README.md").read_text(encoding="utf-8", errors="replace")[:200_000]
        except OSError:
            return f"{self.name}: the folder has no README.md."


def find_served_model(run: Run, checkpoint: Checkpoint, path: str | None) -> ModelFolder:
    """What run.dir or `path` names, or the newest run under runs/. ConfigError, InputError where it can't be."""
    require(
        run.dir is None or path is None, "run.dir and path: give one of them, a run directory or a Hugging Face folder."
    )
    if path is not None:
        return _check_folder(local_folder(path))
    return export_run(require_run_dir(run.dir or str(newest_run())), checkpoint.step)


def newest_run(runs: Path = RUNS) -> Path:
    """The run under runs/ whose last checkpoint is the newest. ConfigError if there is none."""
    found = [(file.stat().st_mtime, file.parents[2]) for file in runs.glob("*/checkpoints/step-*/COMPLETE")]
    if not found:
        raise ConfigError(
            "run.dir and path are not set, and no run under runs/ has a checkpoint: train one (banyan pretrain), or "
            "give path=HF_FOLDER."
        )
    return max(found)[1]


def export_run(run_dir: Path, step: int | None) -> ModelFolder:
    """A checkpoint of a run (None: the newest whole one) as a folder, which is made unless it is there."""
    config = read_config(run_dir)
    require(
        config.model.head == CAUSAL,
        f"run.dir={run_dir}: a {HEADS[config.model.head].noun} writes no text; only causal models are served.",
    )
    checkpoint = find_checkpoint(run_dir, step)
    found = step_of(checkpoint.name)
    folder = run_dir / EXPORTS / checkpoint.name
    if not folder.is_dir():
        _export(folder, f"run.dir={run_dir}", f"checkpoint.step={found}")
    return ModelFolder(folder, run_dir.name, run_dir, found, own=True)


def newest_checkpoint_step(run_dir: Path) -> int | None:
    """The newest whole checkpoint of a run."""
    return step_of(find_checkpoint(run_dir, None).name)


def gguf_folder(model: ModelFolder, precision: str) -> Path:
    """The folder with the GGUF file of a model, which is made unless it is there."""
    if model.run_dir is not None:
        folder = model.run_dir / EXPORTS / f"{model.folder.name}-gguf-{precision}"
    else:
        folder = _cached(model.folder, f"gguf-{precision}")
    if not folder.is_dir():
        _export(folder, f"path={model.folder}", "format=gguf", f"export.gguf={precision}")
    return folder


def int8_folder(model: ModelFolder) -> Path:
    """The folder with the weights in 8 bits, which is made unless it is there or the model is one."""
    if model.is_int8:
        return model.folder
    if model.run_dir is not None:
        folder = model.run_dir / EXPORTS / f"{model.folder.name}-int8"
    else:
        folder = _cached(model.folder, "int8")
    if not folder.is_dir():
        _export(folder, f"path={model.folder}", "format=int8")
    return folder


def _check_folder(folder: Path) -> ModelFolder:
    if not folder.is_dir():
        raise ConfigError(f"path={folder}: there is no such folder, and nothing is downloaded; fetch the model first.")
    if not (folder / CONFIG).is_file():
        raise InputError(
            f"path={folder}: no {CONFIG} there; give a Hugging Face folder, or run.dir={folder} for a run."
        )
    classes = read_json_object(folder / CONFIG).get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else "CausalLM"
    if isinstance(first, str) and not first.endswith(("CausalLM", "LMHeadModel", "LSTM", "LstmForCausalLM")):
        raise InputError(f"path={folder}: {first[:60]} doesn't go on with texts; only causal models are served.")
    return ModelFolder(folder, folder.resolve().name)


def _cached(folder: Path, form: str) -> Path:
    """A place for what is made of a folder, another one when its files change."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(folder.iterdir()):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return cache_folder(os.environ, "serve") / f"{digest.hexdigest()[:24]}-{form}"


def _export(folder: Path, *arguments: str) -> None:
    """Runs `banyan export`, which writes all of a folder or nothing. InputError with its line where it refuses."""
    if KEYRING.source is not None:
        raise ConfigError(
            f"{KEYRING.source}: serving writes a run's weights in clear, to {folder.parent}; choose where yourself: "
            "banyan export, and serve that folder by path=DIR."
        )
    command = [sys.executable, "-P", "-m", "launch", "export", *arguments, f"export.output={folder}"]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode and not folder.is_dir():  # another server may have made it meanwhile
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise InputError(lines[-1].removeprefix("banyan: ") if lines else "banyan export failed without a word.")
