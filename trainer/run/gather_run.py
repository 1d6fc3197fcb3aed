"""All that a page says of a run, read from its directory; a part that can't be read is left out, and says why."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from trainer.config import flatten
from trainer.config.energy import Energy
from trainer.config.stored import from_values, load_values
from trainer.engine.profile_files import PROFILE, read_operators, trace_files
from trainer.errors import BanyanError, InputError
from trainer.machine.json_file import Malformed, from_json, read_json, read_regular
from trainer.report.run_page.journal import read_sample_texts, read_series
from trainer.report.run_page.record import OperatorTable, RunRecord, SpikeStory
from trainer.run.directory import CONFIG
from trainer.run.plan_measured import compare_plan
from trainer.run.status import RunStatus, end_in_words, read_status
from trainer.run.step_documents import StepDocuments
from trainer.track.energy import FILE as ENERGY
from trainer.track.energy import energy_in_words, read_account
from trainer.track.sinks.starts import read_lives

FACTS, ENVIRONMENT, OVERRIDES = "facts.json", "environment.json", "overrides.yaml"
MOST_STORIES = 20  # spikes that are shown
MOST_COMMAND = 4000  # characters


def gather_run(run_dir: Path, *, in_full: bool = True, say: Callable[[str], None] = print) -> RunRecord:
    """The record of a run; with `in_full`, documents behind spikes and the plan as well. InputError if it is none."""
    if not (run_dir / CONFIG).is_file():
        raise InputError(f"{run_dir}: not a run directory, it has no {CONFIG}; name one, as runs/NAME.")
    status = read_status(run_dir)
    lives = tuple(read_lives(run_dir))
    series = read_series(run_dir)
    samples, total = read_sample_texts(run_dir)
    config = flatten(load_values(run_dir / CONFIG))
    facts = _object(run_dir / FACTS, say)
    flops, formula = flops_of(facts)
    plan, problem = compare_plan(run_dir, series, lives) if in_full else ((), "")
    return RunRecord(
        name=status.name,
        run_dir=str(run_dir),
        state=status.state,
        reason=status.reason,
        series=series,
        lives=lives,
        reasons=tuple(_reasons(lives, status)),
        samples=samples,
        samples_total=total,
        spikes=tuple(_stories(run_dir, series.spikes.spikes(), in_full=in_full)),
        config=config,
        environment=_object(run_dir / ENVIRONMENT, say),
        facts=facts,
        flops_per_token=flops,
        flops_formula=formula,
        plan=plan,
        plan_problem=problem,
        profile=tuple(_operators(run_dir)),
        profile_files=tuple(str(Path(PROFILE) / name) for name in trace_files(run_dir)),
        command=_command(run_dir),
        energy=_energy(run_dir, config),
    )


def flops_of(facts: dict[str, Any]) -> tuple[float | None, str]:
    """Model FLOPs of a trained token, and the formula: the run's own, else 6 for each active parameter."""
    told, active = facts.get("flops_per_token"), facts.get("active_parameters")
    if isinstance(told, int | float) and 0 < told < 1e15:
        return float(told), "6N + 12·L·H·Q·T a token"
    if isinstance(active, int) and 0 < active < 1e15:
        return 6.0 * active, "6N a token"
    return None, ""


def _reasons(lives: tuple[Any, ...], status: RunStatus) -> list[str]:
    """Why each start ended; of the last, how the run stands."""
    ended = [end_in_words(life) for life in lives[:-1]]
    return [*ended, status.reason or status.state] if lives else []


def _stories(run_dir: Path, spikes: list[Any], *, in_full: bool) -> list[SpikeStory]:
    """Spikes with their documents, the greatest, by step."""
    chosen = sorted(sorted(spikes, key=lambda spike: -spike.sigmas)[:MOST_STORIES], key=lambda spike: spike.step)
    commands = [f"banyan data at {shlex.quote(str(run_dir))} step={spike.step}" for spike in chosen]
    if not in_full or not chosen:
        return [SpikeStory(spike, command) for spike, command in zip(chosen, commands, strict=True)]
    stories = []
    finder: StepDocuments | None = None
    for spike, command in zip(chosen, commands, strict=True):
        try:
            finder = finder or StepDocuments(run_dir)
            stories.append(SpikeStory(spike, command, finder.top(spike.step)))
        except (BanyanError, OSError) as error:
            stories.append(SpikeStory(spike, command, problem=f"Its documents can't be shown here: {error}"))
    return stories


def _operators(run_dir: Path) -> list[OperatorTable]:
    return [
        OperatorTable(found.rank, found.steps, found.device, tuple(vars(row) for row in found.operators))
        for found in read_operators(run_dir)
    ]


def _object(path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    try:
        return from_json(dict[str, Any], read_json(path))
    except FileNotFoundError:
        return {}
    except Malformed as error:
        say(f"banyan: {path}: {error}; left out")
        return {}


def _energy(run_dir: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Energy in kWh, and how it was measured or estimated."""
    account = read_account(run_dir / ENERGY)
    if account is None or account.joules <= 0:
        return "not measured", "energy"
    prefix = "track.energy."
    try:
        given = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
        settings = from_values(Energy, given, prefix)
    except ValueError:  # an enemy's config.yaml; the account stands
        settings = Energy()
    figure, _, how = energy_in_words(account, settings).partition(", ")
    return figure, f"energy, {how}"


def _command(run_dir: Path) -> str:
    """What was typed for the last start."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        typed = yaml.safe_load(read_regular(run_dir / OVERRIDES, most_bytes=1 << 20))
        if isinstance(typed, list) and all(isinstance(each, str) for each in typed):
            return f"banyan {shlex.join(typed)}"[:MOST_COMMAND]
    return ""
