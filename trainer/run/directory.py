"""The run directory: its name, what rank 0 writes into it, and whether a configuration may go on in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from trainer.config import Pretrain, as_stored_values, as_values, flatten
from trainer.config.knobs import later_fields
from trainer.config.plain_values import with_values
from trainer.config.stored import from_values, load_values
from trainer.config.values import check_values
from trainer.data.tokens.history import FILE as HISTORY
from trainer.data.tokens.history import History
from trainer.data.tokens.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.machine.credentials import masked
from trainer.machine.durable import json_bytes, write_json, write_together
from trainer.machine.hub_name import is_hub_name
from trainer.machine.json_file import Malformed, from_known, read_json
from trainer.model.hugging_face.folder import own_model, with_absolute_folders

# May differ between the runs of one directory: they change neither what is learnt nor in which order.
FREE_SECTIONS = ("run", "parallel", "deepspeed", "checkpoint", "evaluate", "track", "health", "launch")
FREE_TRAIN = (
    *("stop_at", "micro_batch_size", "compile", "merge_products", "activation_checkpointing", "deterministic"),
    *("profile", "profile_ranks"),
)
FREE_MODEL = ("name", "loss_chunk")
# Of data, only these keys matter to training; what is trained on follows from the fingerprints.
DATA_KEYS = (
    *("path", "train", "validation", "sequence_length", "length_ramp", "mask_documents", "packing", "long_documents"),
    "shuffle_shards",
)
# May never change: the weights, the moments, the order or the meaning of tokens would no longer fit.
FIXED = (
    *("model.", "seed", "data.sequence_length", "data.packing", "data.long_documents", "data.shuffle_shards"),
    *("optimizer.name", "adapt."),
)
CONFIG = "config.yaml"
PACKAGES = ("torch", "deepspeed", "numpy", "tokenizers", "safetensors", "wandb", "hydra-core")


def identity(values: dict[str, Any]) -> dict[str, Any]:
    """Of a resolved configuration, flat, all that makes a run what it is."""
    identified = {key: value for key, value in values.items() if key not in FREE_SECTIONS}
    identified["train"] = {key: value for key, value in identified["train"].items() if key not in FREE_TRAIN}
    identified["model"] = {key: value for key, value in identified["model"].items() if key not in FREE_MODEL}
    identified["data"] = {key: identified["data"].get(key) for key in DATA_KEYS}
    identified["checkpoint"] = {"fork_from": values["checkpoint"].get("fork_from")}
    later = later_fields(Pretrain)
    return {key: value for key, value in flatten(identified).items() if key not in later or value != later[key]}


def name_run(config: Pretrain) -> str:
    """run.name, or data-model-HASH: another experiment gets another name, and so never resumes this one."""
    if config.run.name:
        return config.run.name
    text = json.dumps(identity(as_values(config)), sort_keys=True)
    return f"{config.data.name}-{config.model.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def with_absolute_places(config: Pretrain) -> Pretrain:
    """With absolute folders of models and of a run that is forked: another start may stand in another folder."""
    config = dataclasses.replace(config, model=with_absolute_folders(config.model))
    teacher = config.objective.teacher
    if teacher is not None and not is_hub_name(teacher):
        config = with_values(config, {"objective.teacher": str(Path(teacher).expanduser().absolute())})
    if not config.checkpoint.fork_from:
        return config
    return with_values(config, {"checkpoint.fork_from": str(Path(config.checkpoint.fork_from).expanduser().absolute())})


def locate(config: Pretrain) -> Path:
    """run.dir, or runs/NAME; absolute."""
    return Path(config.run.dir or Path("runs") / name_run(config)).absolute()


def check_change(before: dict[str, Any], now: dict[str, Any], *, allow: bool) -> list[str]:
    """Lines about what changed since the checkpoint, "key: old → new".

    ConfigError if something may never change, or may not without run.allow_change. Paths may: data has fingerprints.
    """
    old, new = identity(before), identity(now)
    changes = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key.startswith(
            ("data.path", "data.train.", "data.stages", "data.temperature", "data.validation.")
        ):
            continue
        line = f"{key}: {old.get(key)} → {new.get(key)}"
        if key.startswith(FIXED):
            raise ConfigError(
                f"{line} can't change in a run: set {key}={old.get(key)}, or begin another run with run.name."
            )
        if not allow:
            raise ConfigError(
                f"{line} since the checkpoint: set {key}={old.get(key)}, or run.allow_change=true to go on with the "
                "new value, or run.name to begin another run."
            )
        changes.append(line)
    return changes


def create(run_dir: Path) -> None:
    """Makes the folder. ConfigError if that can't be."""
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run_dir / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir={run_dir}: {error.strerror}; choose a folder that can be written.") from error


def write_description(run_dir: Path, config: Pretrain, history: History, tokenizer: Path) -> None:
    """Writes config.yaml, overrides.yaml, environment.json, history.json and tokenizer/: the folder explains itself."""
    values = yaml.safe_dump(as_stored_values(config), sort_keys=False, allow_unicode=True)
    overrides = yaml.safe_dump([masked(typed) for typed in sys.argv[1:]], allow_unicode=True)
    description = {
        CONFIG: values.encode(),
        "overrides.yaml": overrides.encode(),
        "environment.json": json_bytes(environment()),
        HISTORY: json_bytes(history.to_json()),
    }
    write_together(run_dir, description)
    copy_tokenizer(tokenizer, run_dir / "tokenizer")
    (run_dir / "stopped.json").unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Versions, host and git commit."""
    packages = (*PACKAGES, "transformers") if "transformers" in sys.modules else PACKAGES  # model.path alone needs it
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "git_commit": git_commit(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def git_commit() -> str | None:
    """Commit of Banyan's own source, "+changes" if it was edited; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=True, timeout=10
        )
        status = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, encoding="utf-8", check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def read_config(run_dir: Path) -> Pretrain:
    """The resolved configuration of a run, whose model is its own copy's. InputError if it isn't a run directory.

    Others may have written it: it is read as it stands, without interpolation, and its values are checked.
    """
    path = Path(run_dir) / CONFIG
    if not path.is_file():
        raise InputError(f"run.dir={run_dir}: no config.yaml there; give the folder of a run, such as runs/NAME.")
    try:
        config = from_values(Pretrain, load_values(path))
        check_values(config)
        if config.model.path is None and config.model.vocab_size is None:  # a run's is settled when it begins
            raise ConfigError("model.vocab_size is not set")
    except (ValueError, ConfigError) as error:
        raise InputError(f"{path}: {str(error).rstrip('.')}; restore that file.") from error
    return dataclasses.replace(config, model=own_model(config.model, Path(run_dir)))


def record_stop(run_dir: Path, reason: str, step: int) -> None:
    """Writes stopped.json: why the run left before its end. Launchers requeue after "signal" and "time"."""
    write_json(run_dir / "stopped.json", {"reason": reason, "step": step, "time": time.time()})


def require_run_dir(run_dir: str | None) -> Path:
    """The run directory that a verb was given; ConfigError where there is none."""
    if run_dir is None:
        raise ConfigError("run.dir is not set: name a run, as in run.dir=runs/NAME.")
    path = Path(run_dir)
    if not path.is_dir():
        raise ConfigError(f"run.dir={run_dir}: there is no such folder; name a run directory, as in run.dir=runs/NAME.")
    return path


@dataclass(frozen=True)
class TokenizerConfig:
    """Of a run's tokenizer_config.json, what is needed here."""

    eos_token: str


def load_run_tokenizer(run_dir: Path) -> Tokenizer:
    """The tokenizer that a run was trained with, and the end-of-text token that its documents ended in."""
    folder = run_dir / "tokenizer"
    try:
        end_of_text = from_known(TokenizerConfig, read_json(folder / "tokenizer_config.json")).eos_token
    except (OSError, Malformed) as error:
        raise InputError(
            f"{folder}: no tokenizer_config.json that names an eos_token; copy the dataset's tokenizer/ there."
        ) from error
    return load_tokenizer(folder, end_of_text)


def require_tokenizer_of(checkpoint: Path, state: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Refuses a run's tokenizer that isn't the one that its checkpoint's `state` names: text would come out wrong."""
    if state["tokenizer_sha256"] != tokenizer.sha256:
        raise InputError(
            f"{checkpoint.parent.parent / 'tokenizer'}: not the tokenizer that {checkpoint.name} was trained with "
            "(sha256 differs); copy the dataset's tokenizer/ there."
        )
