"""What runs are doing now, where, since when, how long they will take, and what they last said.

    banyan status RUN_DIR … [format=json]

RUN_DIR is a run directory, or a folder of several, as runs/ or a sweep. Nothing is asked of the run: any process that
sees the folder can, on any host, while it runs and after kill -9. Of SLURM jobs squeue is asked, where there is one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from trainer.errors import ConfigError, InputError
from trainer.machine.terminal import one_line, show
from trainer.report.run_page.life import layout_words
from trainer.run.queue import QueuedJob, look_up
from trainer.run.run_folders import find_runs
from trainer.run.status import RunStatus, read_status
from trainer.run.subcommand import split_arguments
from trainer.track.sinks.console import duration

USAGE = "banyan status RUN_DIR … [format=json]"
FORMATS = ("text", "json")


def main(arguments: list[str]) -> int:
    """The verb; one run in full, several in a table."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n\n{(__doc__ or '').split('[format=json]', 1)[1].strip()}")
        return 0
    folders, given = split_arguments(arguments, {"format": "text"}, USAGE)
    if not folders:
        raise ConfigError(f"status takes a run directory or several: {USAGE}.")
    if given["format"] not in FORMATS:
        raise ConfigError(f"format={given['format']}: choose one of {', '.join(FORMATS)}.")
    run_dirs = find_runs(folders)
    queued = look_up(run_dirs)
    found, refused = [], []
    for run_dir in run_dirs:
        try:
            found.append(read_status(run_dir, queued.get(run_dir)))
        except InputError as error:
            if len(run_dirs) == 1:
                raise
            refused.append(str(error))
    if given["format"] == "json":
        print(json.dumps([status_as_json(status) for status in found], indent=1, ensure_ascii=True))
    elif len(run_dirs) == 1:
        for line in in_full(found[0], time.time()):
            show(one_line(line))
    else:
        for line in as_table(found, time.time()):
            show(one_line(line))
    for line in refused:
        print(one_line(f"banyan: {line}"), file=sys.stderr)
    return 2 if refused else 0


def status_as_json(status: RunStatus) -> dict[str, Any]:
    """A status for programs; a number that isn't finite is null."""
    return {"lives": status.lives, **{key: _plain(value) for key, value in dataclasses.asdict(status).items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def in_full(status: RunStatus, now: float) -> Iterator[str]:
    """A status in lines."""
    yield f"{status.name}: {headline(status, now)}"
    if status.launcher is not None:
        ranks = f"{status.ranks} rank{'s' * (status.ranks != 1)}"
        hosts = ", ".join(status.hosts[:8]) + (f" and {len(status.hosts) - 8} more" if len(status.hosts) > 8 else "")
        job = f", {status.launcher} job {status.job}" if status.job else f", launched {status.launcher}"
        where = f"{hosts or status.host}, process {status.pid}{job}"
        yield f"  where      {where}; {ranks}, {layout_words(status.layout)}"
    if status.queue is not None:
        yield f"  queue      {job_in_words(status.queue)}"
    if status.since is not None:
        until = "" if status.lives or status.ended is None else f", ended {moment(status.ended)}"
        yield f"  since      {moment(status.since)} ({duration(max(0.0, (status.ended or now) - status.since))}){until}"
    if status.step is not None:
        yield f"  step       {progress(status)}"
    if status.loss is not None:
        figures = [f"loss {status.loss:.4f}"]
        figures += [f"{status.tokens_per_second:,.0f} tokens/s"] if status.tokens_per_second else []
        figures += [f"MFU {status.mfu:.1%}"] if status.mfu else []
        figures += [f"{key.removeprefix('eval/')} {value:.4f}" for key, value in _losses(status).items()]
        yield f"  figures    {', '.join(figures)}"
    if status.checkpoint_step is not None and status.checkpoint_time is not None:
        age = duration(max(0.0, now - status.checkpoint_time))
        yield f"  checkpoint step {status.checkpoint_step:,}, {age} ago"
    else:
        yield "  checkpoint none yet"
    if status.restarts:
        yield f"  restarts   {len(status.restarts)}"
        for restart in status.restarts:
            lost = f", {restart['lost_steps']} steps lost" if restart["lost_steps"] else ""
            ranks = f"{restart['ranks']} rank{'s' * (restart['ranks'] != 1)}, {layout_words(restart['layout'])}"
            begun = f"{moment(restart['time'])} from step {restart['step']:,}{lost}"
            yield f"{'':<12} {begun}: {restart['reason'].rstrip('.')}; {ranks}"
    for problem in status.problems:
        yield f"  damaged    {problem}"
    for number, line in enumerate(status.said):
        yield f"  {'last said' if number == 0 else '':<10} {line}"
    yield f"  folder     {status.run_dir}"


def headline(status: RunStatus, now: float) -> str:
    """What it does, or how it ended, with the time left."""
    reason = status.reason.removeprefix(f"{status.state}: ")
    text = status.state if reason in ("", status.state) else f"{status.state} ({reason})"
    if status.lives and status.seconds_left is not None:
        text += f", {duration(status.seconds_left)} left"
    return text


def job_in_words(job: QueuedJob) -> str:
    """slurm job 31: running on n[1-2], 3h12m of its time limit left"""
    parts = [f"{job.state.lower()}{f' on {job.nodes}' if job.nodes else ''}", job.why]
    if job.waits and job.starts is not None:
        parts.append(f"to start {moment(job.starts)}, as SLURM expects")
    if job.seconds_left is not None:
        parts.append(f"{duration(job.seconds_left)} of its time limit left")
    return f"slurm job {job.job}: {', '.join(filter(None, parts))}"


def progress(status: RunStatus) -> str:
    """Steps, and tokens where they are known."""
    total = (
        f" of {status.total_steps:,} ({(status.step or 0) / max(1, status.total_steps):.1%})"
        if status.total_steps
        else ""
    )
    tokens = f", {status.tokens:,} tokens" if status.tokens else ""
    return f"{status.step:,}{total}{tokens}"


def as_table(found: list[RunStatus], now: float) -> Iterator[str]:
    """Several runs, a line for each."""
    rows = [("run", "state", "step", "loss", "tokens/s", "left", "restarts", "reason")]
    for status in found:
        reason = status.reason.removeprefix(f"{status.state}: ")
        damaged = f"; damaged: {', '.join(status.problems)}" if status.problems else ""
        rows.append(
            (
                status.name,
                status.state,
                f"{status.step or 0:,}" + (f"/{status.total_steps:,}" if status.total_steps else ""),
                "" if status.loss is None else f"{status.loss:.4f}",
                "" if status.tokens_per_second is None else f"{status.tokens_per_second:,.0f}",
                "" if status.seconds_left is None else duration(status.seconds_left),
                str(len(status.restarts)),
                ("" if reason == status.state else reason[:80]) + damaged,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def moment(seconds: float) -> str:
    """A time as it is here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _losses(status: RunStatus) -> dict[str, float]:
    return {key: value for key, value in status.evaluations.items() if key.endswith("/loss")}
