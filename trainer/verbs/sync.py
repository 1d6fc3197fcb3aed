"""Brings a run's W&B run up to date with its metrics.jsonl: every row once, whatever was or wasn't sent before.

    banyan sync runs/NAME [track.wandb.mode=offline] [track.wandb.project=…]

With a key the missing rows go to the server, into the run whose id the run directory holds, also if it trained
offline. Without one, or with track.wandb.mode=offline or WANDB_MODE=offline, the whole run is written as one offline
folder for `wandb sync`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.stored import load_values
from trainer.errors import ConfigError, InputError
from trainer.machine.json_file import Malformed, from_json, from_known, read_json
from trainer.run.lineage import newest_complete
from trainer.run.wandb_overrides import wandb_settings
from trainer.track.lineage import read_references
from trainer.track.sinks.journal import METRICS, Row
from trainer.track.sinks.wandb_run import WandbSettings, journal_rows, mark_superseded, start_run
from trainer.track.tracker import FACTS
from trainer.track.wandb_service import choose_mode

USAGE = "banyan sync RUN_DIR [track.wandb.KEY=VALUE] …"
CONFIG = "config.yaml"
FINISH_TIMEOUT_S = 600.0  # the longest wait for all uploads


@dataclass(frozen=True)
class SyncSections:
    """Of config.yaml, what is needed here."""

    run: dict[str, Any] | None = None
    track: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunSection:
    """What sync reads of the section `run`."""

    name: str | None = None


@dataclass(frozen=True)
class TrackSection:
    """What sync reads of the section `track`."""

    wandb: dict[str, Any] | None = None


def main(arguments: list[str]) -> int:
    """The verb: read the run directory, start its W&B run, send the rows, say where they are."""
    folders = [argument for argument in arguments if "=" not in argument]
    if len(folders) != 1:
        raise ConfigError(f"sync takes one run directory, {len(folders)} given: {USAGE}.")
    run_dir = Path(folders[0])
    config = read_plain_config(run_dir)
    settings = wandb_settings(config, [argument for argument in arguments if "=" in argument], "sync")
    rows = read_journal(run_dir)
    name = (config.get("run") or {}).get("name") or run_dir.resolve().name
    plan = WandbSettings(
        run_dir=run_dir,
        name=name,
        settings=settings,
        config={**config, "facts": read_facts(run_dir)},
        finish_timeout_s=FINISH_TIMEOUT_S,
    )
    mode = choose_mode(settings, say=print)
    if mode == "disabled":
        raise ConfigError(
            "sync has nothing to do: WANDB_MODE or track.wandb.mode is disabled; set it to online or offline."
        )
    return send(plan, rows, mode)


def send(plan: WandbSettings, rows: list[Row], mode: str) -> int:
    """Logs the rows that are missing there; returns the exit code."""
    run = start_run(plan, mode, say=print)
    run.use_data(plan.config["facts"])
    sent = sum(run.log(row) for row in rows)
    newest = newest_complete(plan.run_dir)
    if newest is not None:
        run.checkpoint(*newest)
    complete = run.close(exit_code=0, summary={})
    if mode == "online":
        if complete:
            print(f"W&B: {sent} rows sent, {len(rows) - sent} were there: {run.url}")
        return 0 if complete else 1
    print(f"{sent} rows written to {run.folder}; upload them with: wandb sync {run.folder}")
    superseded = mark_superseded(plan.run_dir, keep=run.folder)
    if superseded:
        print(f"{superseded} earlier offline folders hold parts of the same run; they are marked as synced.")
    if any(plan.run_dir.glob("wandb/run-*")):
        print(
            "If W&B has rows of this run already, use `banyan sync` where there is a network instead: it adds the rest."
        )
    return 0


def read_plain_config(run_dir: Path) -> dict[str, Any]:
    """The resolved configuration of a run directory, as plain values; nothing in it is interpolated."""
    path = run_dir / CONFIG
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such directory. Name a run directory, as in {USAGE}.")
    if not path.is_file():
        raise InputError(f"{run_dir}: not a run directory, it has no {CONFIG}. Name one that `banyan pretrain` made.")
    config = load_values(path)
    try:
        sections = from_known(SyncSections, config)
        from_known(RunSection, sections.run or {})
        from_known(TrackSection, sections.track or {})
    except Malformed as error:
        raise InputError(f"{path}: holds no configuration ({error}). Mend that file.") from error
    return config


def read_journal(run_dir: Path) -> list[Row]:
    """All rows of the run; an InputError if there are none."""
    rows = journal_rows(run_dir)
    if not rows:
        raise InputError(f"{run_dir}: no rows in {METRICS}, so there is nothing to sync. Train first.")
    return rows


def read_facts(run_dir: Path) -> dict[str, Any]:
    """What Tracker.open wrote down at the start; empty if it is missing."""
    path = run_dir / FACTS
    try:
        facts = from_json(dict[str, Any], read_json(path))
        read_references(facts)
    except FileNotFoundError:
        return {}
    except Malformed as error:
        raise InputError(f"{path}: {error}; remove it, and what it says of the run is left out.") from error
    return facts
