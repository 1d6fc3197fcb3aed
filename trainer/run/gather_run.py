"""All that a page says of a run, read from its directory; a part that can't be read is left out, and says why."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from trainer.config import flatten
from trainer.config.stored import load_values
from trainer.engine.profile_files import PROFILE, read_operators, trace_files
from trainer.errors import BanyanError, InputError
from trainer.machine.json_file import Malformed, from_json, read_json, read_regular
from trainer.report.run_page.journal import read_layers, read_sample_texts, read_series
from trainer.report.run_page.layers import LayerMaps
from trainer.report.run_page.record import OperatorTable, RunRecord, SpikeStory
from trainer.report.run_page.spikes import severity
from trainer.run.directory import CONFIG
from trainer.run.gather_health import gather_energy, gather_health
from trainer.run.plan_measured import compare_plan
from trainer.run.status import RunStatus, end_in_words, read_status
from trainer.run.step_documents import StepDocuments
from trainer.track.sinks.starts import read_lives
from trainer.track.spike_record import REWOUND, SpikeRecord, data_command, read_spikes
from trainer.track.spikes import SpikeRule

FACTS, ENVIRONMENT, OVERRIDES = "facts.json", "environment.json", "overrides.yaml"
MOST_STORIES = 20  # spikes that are shown
MOST_COMMAND = 4000  # characters


def gather_run(run_dir: Path, *, in_full: bool = True, say: Callable[[str], None] = print) -> RunRecord:
    """The record of a run; with `in_full`, documents behind spikes and the plan as well. InputError if it is none."""
    if not (run_dir / CONFIG).is_file():
        raise InputError(f"{run_dir}: not a run directory, it has no {CONFIG}; name one, as runs/NAME.")
    status = read_status(run_dir)
    lives = tuple(read_lives(run_dir))
    config = flatten(load_values(run_dir / CONFIG))
    series = read_series(run_dir, *_spike_rule(config))
    samples, total = read_sample_texts(run_dir)
    recorded = (replace(spike, command=data_command(run_dir, spike.step)) for spike in read_spikes(run_dir))
    spikes = [*series.spikes.spikes(run_dir), *recorded]  # a run may have been moved since
    energy, energy_rows = gather_energy(run_dir, config)
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
        spikes=tuple(_stories(run_dir, spikes, in_full=in_full)),
        all_spikes=tuple(spikes),
        health=gather_health(run_dir),
        layers=read_layers(run_dir) if in_full else LayerMaps(),
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
        energy=energy,
        energy_rows=tuple(energy_rows),
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


def _spike_rule(config: dict[str, Any]) -> tuple[SpikeRule, int]:
    """The run's own rule, and how often it logged; the defaults where its configuration, maybe an enemy's, has none."""
    sigma, window, every = (config.get(key) for key in ("health.sigma", "health.window", "track.every"))
    known = type(sigma) in (int, float) and type(window) is int and 4 <= window <= 1e6
    rule = SpikeRule(float(str(sigma)), int(str(window))) if known else SpikeRule()
    return rule, every if type(every) is int else 1


def _stories(run_dir: Path, spikes: list[SpikeRecord], *, in_full: bool) -> list[SpikeStory]:
    """Spikes with their documents, the greatest, by step."""
    chosen = sorted(sorted(spikes, key=severity)[-MOST_STORIES:], key=lambda spike: spike.step)
    stories = []
    finder: StepDocuments | None = None
    for spike in chosen if in_full else ():
        if spike.outcome == REWOUND:  # by now that step may have been taken on other data
            stories.append(SpikeStory(spike))
            continue
        try:
            finder = finder or StepDocuments(run_dir)
            stories.append(SpikeStory(spike, finder.top(spike.step)))
        except (BanyanError, OSError) as error:
            stories.append(SpikeStory(spike, problem=f"The texts can't be shown here: {error}"))
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


def _command(run_dir: Path) -> str:
    """What was typed for the last start."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        typed = yaml.safe_load(read_regular(run_dir / OVERRIDES, most_bytes=1 << 20))
        if isinstance(typed, list) and all(isinstance(each, str) for each in typed):
            return f"banyan {shlex.join(typed)}"[:MOST_COMMAND]
    return ""
