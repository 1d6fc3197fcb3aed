"""Which nodes of a SLURM job the next start of its ranks takes: without those that failures were put down to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.blame import blame_counts, choose, counts_of, hosts_named, names_of, remember_blames
from launch.failure import Failure
from trainer.machine.durable import write_text

TWICE = (
    2  # blames after which a node isn't kept, where there is no spare: another place in the queue costs more than one
)
CHOSEN = "nodes"  # beside the ranks' error files: what the batch script reads


def blame(run_dir: Path, errors: Path, failed: Failure, names: Sequence[str], step: int) -> list[str]:
    """Remembers whose fault a failure was; those of the job's nodes that it is put down to."""
    where = errors / f"rank-{failed.rank}.node"
    reported = where.read_text("utf-8").strip() if where.is_file() else None
    blamed = names_of(hosts_named(failed, reported), names)
    if blamed:
        remember_blames(run_dir, failed, blamed, step)
    return blamed


def take(run_dir: Path, names: Sequence[str], spares: int) -> list[str]:
    """The nodes of the next start, of a job that has `spares` nodes more than it needs."""
    return choose(names, len(names) - spares, blame_counts(run_dir))


def unfit(run_dir: Path, taken: Sequence[str]) -> list[str]:
    """Nodes that would be taken for want of others, and have been blamed too often for that."""
    return [node for node, count in counts_of(taken, blame_counts(run_dir)).items() if count >= TWICE]


def leave_to_script(errors: Path, taken: Sequence[str]) -> None:
    """For the batch script: names with commas between them."""
    write_text(errors / CHOSEN, ",".join(taken) + "\n")


def to_exclude(run_dir: Path) -> list[str]:
    """Nodes that a job which is yet to be submitted does without: blamed twice, or by the doctor."""
    return sorted(node for node, count in blame_counts(run_dir).items() if count >= TWICE)
