"""How often a SLURM job started its ranks without progress: RUN/slurm.json, so that nothing is started for ever.

Progress is a newer whole checkpoint. A start after a crash, after a requeue and after the loss of a node count alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trainer.checkpoint.folders import folder_of, list_steps
from trainer.machine.durable import write_json
from trainer.machine.json_file import Count, from_json, read_json


@dataclass(frozen=True)
class Starts:
    """The last start. `job` is the job's number, or the name of its chain; `most` is launch.max_restarts."""

    job: str
    step: int  # newest whole checkpoint at that start; 0: none
    fruitless: int  # starts before this one, in a row, that left no newer checkpoint
    most: int
    spares: Count = 0  # nodes of the job that have no ranks
    refused: str | None = None  # why no start of this job can do better: bad configuration or input

    @property
    def exhausted(self) -> bool:
        """Whether there were too many without progress for this one."""
        return self.fruitless > self.most

    def next(self, step: int) -> Starts:
        """The start after this one, if it is made with `step` as the newest checkpoint."""
        return replace(self, step=step, fruitless=0 if step > self.step else self.fruitless + 1)

    def write(self, run_dir: Path) -> None:
        """Keeps it for the next start, of this job or the next in its chain."""
        write_json(run_dir / "slurm.json", asdict(self))


def last_start(run_dir: Path) -> Starts | None:
    """The last start of any job in this run directory."""
    try:
        return from_json(Starts, read_json(run_dir / "slurm.json"))
    except (OSError, ValueError):
        return None


def first_or_next(run_dir: Path, job: str, most: int, spares: int = 0) -> Starts:
    """The start that `job` is about to make when SLURM has given it its nodes."""
    last, step = last_start(run_dir), newest_step(run_dir)
    if last is None or last.job != job:
        return Starts(job, step, 0, most, spares)
    return replace(last.next(step), most=most, spares=spares)


def newest_step(run_dir: Path) -> int:
    """Step of the newest checkpoint that has a COMPLETE, or 0."""
    whole = [step for step in list_steps(run_dir) if (folder_of(run_dir, step) / "COMPLETE").is_file()]
    return max(whole, default=0)
