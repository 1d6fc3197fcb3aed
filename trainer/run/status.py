"""What a run is doing, read from its directory by any process on any host that sees it: nothing is asked of the run.

A lock that is held, heartbeats and journals tell of one that lives; starts.jsonl, the end of one that doesn't; SLURM's
queue (queue.py) whether a job of it waits.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.checkpoint.complete import COMPLETE
from trainer.checkpoint.folders import folder_of, list_steps, step_of
from trainer.errors import STOPPED, InputError
from trainer.machine.json_file import Malformed, from_known, open_regular
from trainer.ranks.heartbeat import Heartbeat
from trainer.ranks.watchdog import SIGN_S
from trainer.run.lock import HEARTBEAT_S, Holder, look_at
from trainer.run.log_lines import last_said
from trainer.run.queue import FILE as SUBMITTED
from trainer.run.queue import QueuedJob, waits_for_room
from trainer.track.sinks.journal import METRICS, NO_METRICS, Row, read_tail, with_nan
from trainer.track.sinks.starts import Life, read_lives

STARTING, TRAINING, EVALUATING, SAVING, ENDING = "starting", "training", "evaluating", "saving", "ending"
STATES = {  # of a run that lives, by the phase of its heartbeat
    "start": STARTING,
    "data": TRAINING,
    "train": TRAINING,
    "log": TRAINING,
    "evaluate": EVALUATING,
    "save": SAVING,
    "end": ENDING,
}
FINISHED, STOPPED_STATE, CRASHED, KILLED, HUNG, UNKNOWN = "finished", "stopped", "crashed", "killed", "hung", "unknown"
SILENT, QUEUED = "silent", "queued"
LIVING = (*dict.fromkeys(STATES.values()), HUNG, SILENT)
PACE_ROWS = 50  # logged steps that the time left is reckoned from
SAID_LINES = 3
MOST_HEARTBEAT_BYTES = 4096
MOST_RANKS_READ = 64  # heartbeats that are read; a larger run's ranks are looked at evenly


@dataclass(frozen=True)
class RunStatus:
    """All that is known of a run. Times are unix seconds; what isn't known is None."""

    run_dir: str
    name: str
    state: str
    reason: str
    host: str | None
    pid: int | None
    launcher: str | None
    job: str | None
    queue: QueuedJob | None  # a job of it that waits or runs
    ranks: int | None
    hosts: list[str]
    layout: dict[str, Any]
    since: float | None  # the start that the run is in, or was in last
    seen: float | None  # the last sign of life, of a run that lives
    ended: float | None
    step: int | None
    total_steps: int | None
    tokens: int | None
    loss: float | None
    tokens_per_second: float | None
    mfu: float | None
    evaluations: dict[str, float]
    seconds_left: float | None
    checkpoint: str | None
    checkpoint_step: int | None
    checkpoint_time: float | None
    starts: int
    restarts: list[dict[str, Any]]
    said: list[str]
    problems: list[str]  # files of the run that can't be read, or not whole

    @property
    def lives(self) -> bool:
        """Whether a process works on it."""
        return self.state in LIVING


def read_status(run_dir: Path, queued: QueuedJob | None = None) -> RunStatus:
    """The status of a run, of which a job is `queued`. InputError if the folder isn't one's."""
    if not (run_dir / "config.yaml").is_file() and not (run_dir / "lock").exists() and not (run_dir / "logs").is_dir():
        raise InputError(f"{run_dir}: not a run directory, it has no config.yaml; name one, as runs/NAME.")
    lives = read_lives(run_dir)
    last = lives[-1] if lives else None
    rows, problems = _rows(run_dir)
    beats = _heartbeats(run_dir)
    state, reason, holder, seen = _state(run_dir, last, beats)
    if queued is not None and state not in (*LIVING, FINISHED):
        state, reason = _state_of_job(queued, reason if last is not None else "")
    elif state not in (*LIVING, FINISHED) and (waits := waits_for_room(run_dir, lives)):
        state, reason = QUEUED, f"{waits}; before that, {reason}" if last is not None else waits
    lives_on = state in LIVING
    training = [row for row in rows if "train/loss" in row]
    row = training[-1] if training else {}
    start = last.start if last else None
    taken = [beats[0].step - 1] if lives_on and 0 in beats else []
    total = start.total_steps if start else None
    checkpoint = _newest_checkpoint(run_dir)
    saved = step_of(checkpoint.name) if checkpoint else None
    step = max([int(row.get("step", start.step if start else 0)), saved or 0, *taken])
    return RunStatus(
        run_dir=str(run_dir),
        name=_name(run_dir),
        state=state,
        reason=reason,
        host=holder.host if holder else (start.host if start else None),
        pid=holder.pid if holder else (start.pid if start else None),
        launcher=start.launcher if start else None,
        job=(start.job or None) if start else None,
        queue=queued,
        ranks=start.ranks if start else (len(beats) or None),
        hosts=sorted({beat.host for beat in beats.values()}),
        layout=start.layout if start else {},
        since=start.time if start else None,
        seen=seen,
        ended=None if lives_on else _ended(last, rows),
        step=step,
        total_steps=total,
        tokens=_count(row.get("tokens")),
        loss=row.get("train/loss"),
        tokens_per_second=row.get("perf/tokens_per_second"),
        mfu=row.get("perf/mfu"),
        evaluations=_evaluations(rows),
        seconds_left=_seconds_left(training, start.time if start else 0.0, total) if lives_on else None,
        checkpoint=str(checkpoint) if checkpoint else None,
        checkpoint_step=saved,
        checkpoint_time=(checkpoint / COMPLETE).stat().st_mtime if checkpoint else None,
        starts=len(lives),
        restarts=restarts_of(lives),
        said=last_said(run_dir, SAID_LINES),
        problems=problems,
    )


def restarts_of(lives: list[Life]) -> list[dict[str, Any]]:
    """Each start after the first: when, after which step, what was lost, why the one before had ended, the layout."""
    return [
        {
            "time": after.start.time,
            "step": after.start.step,
            "lost_steps": after.start.lost_steps,
            "reason": end_in_words(before),
            "ranks": after.start.ranks,
            "layout": after.start.layout,
            "host": after.start.host,
        }
        for before, after in pairwise(lives)
    ]


def end_in_words(life: Life) -> str:
    """Why a start that is over ended."""
    return life.reason or "killed without a word: SIGKILL to all, power, or the machine was lost"


def _state(
    run_dir: Path, last: Life | None, beats: dict[int, Heartbeat]
) -> tuple[str, str, Holder | None, float | None]:
    """State, reason, and who holds the lock, with its last sign of life, where the run lives."""
    found = look_at(run_dir / "lock")
    announced = _hang(run_dir)
    if found is not None:
        holder, touched = found
        age_s = _now_there(run_dir) - touched
        if not (holder.is_local and holder.has_ended()) and (holder.is_local or age_s <= 2 * SIGN_S):
            if announced:
                return HUNG, announced, holder, touched
            phase = _phase(beats.get(0), holder, last)
            if age_s > 4 * HEARTBEAT_S:
                return SILENT, f"no sign of life for {age_s:.0f} s; last in phase {phase}", holder, touched
            return STATES.get(phase, TRAINING), "", holder, touched
    if announced and (last is None or last.end is None):
        return CRASHED, announced, None, None
    return *_end(run_dir, last, gone=found is not None), None, None


def _state_of_job(job: QueuedJob, before: str) -> tuple[str, str]:
    """State and reason of a run that nobody works on but a job is there for; `before` is how its last start ended."""
    ended = f"; before that, {before}" if before else ""
    if job.waits:
        return QUEUED, f"job {job.job} waits{f' ({job.why})' if job.why else ''}{ended}"
    return STARTING, f"job {job.job} runs{f' on {job.nodes}' if job.nodes else ''}, its ranks are being started{ended}"


def _phase(beat: Heartbeat | None, holder: Holder, last: Life | None) -> str:
    """What rank 0 says that it does; before its first heartbeat, or without any (health.hang_timeout_s=0), a guess."""
    if beat is not None and beat.pid == holder.pid:
        return beat.phase
    return "train" if last is not None and last.start.pid == holder.pid else "start"


def _end(run_dir: Path, last: Life | None, *, gone: bool) -> tuple[str, str]:
    """State and reason of a run that nobody works on."""
    if last is not None and last.failure is not None:
        return (KILLED if last.failure.exit_code > 128 else CRASHED), last.failure.reason
    if last is not None and last.end is not None:
        code = last.end.exit_code
        return (FINISHED if code == 0 else STOPPED_STATE if code == STOPPED else CRASHED), last.end.reason
    if last is not None or gone:
        return KILLED, "its process is gone without a word: SIGKILL, power, or the machine was lost"
    if (run_dir / "summary.txt").is_file():
        return FINISHED, ""
    if (run_dir / "stopped.json").is_file():
        return STOPPED_STATE, ""
    if (run_dir / SUBMITTED).is_file():
        return UNKNOWN, "submitted; no job of it has begun to train, and none is in the queue that is seen from here"
    return UNKNOWN, "an earlier version, which kept no record of starts, made this run"


def _hang(run_dir: Path) -> str | None:
    with contextlib.suppress(OSError, Malformed), open_regular(run_dir / "heartbeats" / "hang") as file:
        return " ".join(file.read(MOST_HEARTBEAT_BYTES).decode(errors="replace").split()) or None
    return None


def _now_there(run_dir: Path) -> float:
    """The time by the file system's clock, where this process may write; else by this machine's."""
    probe = run_dir / "heartbeats"
    with contextlib.suppress(OSError):
        os.utime(probe)
        return probe.stat().st_mtime
    return time.time()


def _heartbeats(run_dir: Path) -> dict[int, Heartbeat]:
    """The last heartbeats, by rank; of many ranks, those of some that are evenly spread."""
    try:
        names = sorted(name for name in os.listdir(run_dir / "heartbeats") if name.startswith("rank-"))
    except OSError:
        return {}
    beats = {}
    for name in names[:: -(-len(names) // MOST_RANKS_READ) or 1]:
        with contextlib.suppress(OSError, ValueError, TypeError), open_regular(run_dir / "heartbeats" / name) as file:
            beat = from_known(Heartbeat, json.loads(file.read(MOST_HEARTBEAT_BYTES)))
            beats[beat.rank] = beat
    return beats


def _rows(run_dir: Path) -> tuple[list[Row], list[str]]:
    """The last rows of metrics.jsonl, NaN where a value wasn't finite; and what is wrong with it."""
    try:
        rows, damaged = read_tail(run_dir / METRICS)
    except Malformed as error:
        return [], [f"{METRICS}: {error}"]
    lines = f"{damaged:,} line{'s' * (damaged != 1)} of its end can't be read" if damaged else ""
    return [with_nan(row) for row in rows], [f"{METRICS}: {lines}"] if damaged else []


def _evaluations(rows: list[Row]) -> dict[str, float]:
    """The last value of each evaluated metric."""
    found: dict[str, float] = {}
    for row in rows:
        found |= {key: value for key, value in row.items() if key.startswith("eval/") and key not in NO_METRICS}
    return found


def _seconds_left(training: list[Row], began: float, total_steps: int | None) -> float | None:
    """From the last logged steps of this start, evaluations and checkpoints between them included."""
    rows = [row for row in training if row["time"] >= began][-PACE_ROWS:]
    if total_steps is None or len(rows) < 2 or rows[-1]["step"] <= rows[0]["step"]:
        return None
    gaps = [(b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in pairwise(rows) if b["step"] > a["step"]]
    return statistics.fmean(gaps) * max(0, total_steps - rows[-1]["step"])


def _newest_checkpoint(run_dir: Path) -> Path | None:
    folders = (folder_of(run_dir, step) for step in reversed(list_steps(run_dir)))
    return next((folder for folder in folders if (folder / COMPLETE).is_file()), None)


def _ended(last: Life | None, rows: list[Row]) -> float | None:
    """When a run that nobody works on ended: as it was said, or its last row."""
    told = (last.failure or last.end) if last else None
    return told.time if told is not None else (rows[-1].get("time") if rows else None)


def _name(run_dir: Path) -> str:
    return run_dir.resolve().name


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else None
