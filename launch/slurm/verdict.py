"""What a SLURM job does next; slurm/pretrain.sbatch asks, and does it. Says why on stderr, which is the job's log.

    python -m launch.slurm.verdict begin OVERRIDES…     prints the run directory, or nothing if the run is finished
    python -m launch.slurm.verdict after CODE ASKED     prints restart, requeue, "exclude NODES" or "end CODE"

CODE is what srun ended with; ASKED is 1 if the job was asked to stop, by USR1 or preemption. torch isn't imported.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch import failure
from launch.blame import NODES
from launch.failure import Failure, was_first
from launch.slurm import nodes
from launch.slurm.starts import Starts, first_or_next, last_start, newest_step
from launch.verbs import VERBS
from trainer.config import Launch
from trainer.errors import STOPPED, ConfigError
from trainer.machine.durable import problem_of
from trainer.machine.json_file import read_json

REQUEUED = ("signal", "time")  # reasons in stopped.json after which nobody wants the run to stay stopped


@dataclass(frozen=True)
class Allocation:
    """What SLURM gave to this job, as its batch script sees it."""

    job: str
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    chain: str
    gpus_per_task: str | None = None
    names: tuple[str, ...] = ()  # of its nodes
    first_job: str = ""  # that went on as this one, without a node

    @staticmethod
    def of(environment: Mapping[str, str]) -> Allocation:
        """The allocation that SLURM_* describes; the script sets TASKS, and BANYAN_CHAIN in the jobs of a chain."""
        return Allocation(
            job=environment["SLURM_JOB_ID"],
            nodes=int(environment.get("SLURM_JOB_NUM_NODES", "1")),
            tasks_per_node=int(environment.get("TASKS", "1")),
            gpus_per_node=int(environment.get("SLURM_GPUS_ON_NODE") or 0),
            chain=environment.get("BANYAN_CHAIN", ""),
            gpus_per_task=environment.get("SLURM_GPUS_PER_TASK"),
            names=tuple(filter(None, environment.get("BANYAN_NODES", "").split(","))),
            first_job=environment.get("BANYAN_FIRST_JOB", ""),
        )

    @property
    def name(self) -> str:
        """What starts are counted by: a chain's jobs are one, and a job that goes on as another."""
        return self.chain or self.first_job or self.job


def main(arguments: Sequence[str]) -> int:
    """`begin` or `after`; the exit code is 2 if the job must end at once."""
    try:
        if arguments[0] == "begin":
            print(begin(arguments[1:], Allocation.of(os.environ)) or "")
        else:
            code, asked = arguments[1:3]
            print(after(Path(os.environ["RUN_DIR"]), int(code), asked == "1", Allocation.of(os.environ)))
    except Exception as error:
        failed = failure.of_exception(error)
        failed.show()
        return failed.exit_code
    return 0


def begin(arguments: Sequence[str], allocation: Allocation) -> Path | None:
    """Checks the configuration for this allocation and makes the run directory; None if the run is finished.

    ConfigError for what can't be honoured, and for a job that has started too often without progress.
    """
    from launch.cli import check, read_options
    from launch.compose import compose
    from launch.slurm.launcher import folder_of_job
    from trainer.data.tokens.history import total_steps_in
    from trainer.run import directory as run_directory

    verb = VERBS[os.environ.get("BANYAN_VERB", "pretrain")]
    options = read_options(verb, ["launch=slurm", *arguments])
    config = compose(verb.name, options.overrides, options.config_dir)
    check_allocation(config.launch, allocation)
    check(verb, config, (allocation.nodes - config.launch.spares) * allocation.tasks_per_node)
    run_dir = folder_of_job(verb, config)
    if not verb.trains:
        run_dir = run_dir / f"job-{allocation.job}"  # several may go on at once
    step = newest_step(run_dir)
    if verb.trains and (run_dir / "summary.txt").is_file() and step >= total_steps_in(run_dir, config, step=step):
        _say(f"{run_dir}: finished before; a new run.name begins a new run")
        return None
    run_directory.create(run_dir)
    start = first_or_next(run_dir, allocation.name, config.launch.max_restarts, config.launch.spares)
    if start.refused:
        raise ConfigError(f"{start.refused} (found by an earlier job of this chain)")
    if start.exhausted:
        raise ConfigError(_gave_up(start))
    _make_ready(run_dir, start, allocation)
    return run_dir


def after(run_dir: Path, code: int, asked: bool, allocation: Allocation) -> str:
    """What to do when the ranks of a start have ended: restart, requeue, "exclude NODES" or "end CODE"."""
    last = last_start(run_dir)
    assert last is not None, "begin wrote it"
    wish = _wish(run_dir, code, asked, last, allocation)
    if wish == "requeue" and allocation.chain:
        _say("the next job of the chain goes on")
        return f"end {STOPPED}"
    if wish not in ("restart", "requeue"):
        return wish
    start = last.next(newest_step(run_dir))
    if start.exhausted:
        _say(_gave_up(start))
        return "end 1"
    if wish == "restart":
        _say(f"the ranks ended with code {code}; newest checkpoint: step {start.step}")
        _make_ready(run_dir, start, allocation)
        unfit = nodes.unfit(run_dir, nodes.take(run_dir, allocation.names, start.spares))
        if unfit and not allocation.chain:
            return f"exclude {','.join(unfit)}"
    return wish


def _wish(run_dir: Path, code: int, asked: bool, last: Starts, allocation: Allocation) -> str:
    """What the ranks' end calls for, however often it was done before."""
    failed = first_failure(run_dir) if code else None
    if failed:
        failed.show()
        failure.keep(failed, run_dir)
        _tell(failed, run_dir)
        blamed = nodes.blame(run_dir, _errors(run_dir), failed, allocation.names, newest_step(run_dir))
        if blamed:
            _say(f"put down to {', '.join(blamed)}, as {run_dir / NODES} remembers")
    if failed and failed.exit_code == 2:
        replace(last, refused=failed.message).write(run_dir)
        return "end 2"
    if code and VERBS[os.environ.get("BANYAN_VERB", "pretrain")].answers:
        return f"end {failed.exit_code if failed else 1}"
    if code:
        return "requeue" if asked else "restart"
    reason = stop_reason(run_dir)
    if reason is None:
        return "end 0"
    return "requeue" if reason in REQUEUED else f"end {STOPPED}"


def check_allocation(launch: Launch, allocation: Allocation) -> None:
    """Refuses an allocation that isn't the one that `launch` asks for, or leaves GPUs or ranks without each other."""
    count, gpus, tasks = allocation.nodes, allocation.gpus_per_node, allocation.tasks_per_node
    if launch.spares >= count:
        raise ConfigError(f"launch.spares={launch.spares}: this job has {count} nodes, of which none would have ranks.")
    if not launch.elastic and launch.nodes not in (1, count - launch.spares):
        raise ConfigError(
            f"launch.nodes={launch.nodes}: this job has {count}; use sbatch --nodes={launch.nodes + launch.spares}."
        )
    if launch.gpus_per_node not in (0, gpus):
        raise ConfigError(
            f"launch.gpus_per_node={launch.gpus_per_node}: this job has {gpus}; "
            f"use sbatch --gpus-per-node={launch.gpus_per_node}."
        )
    if allocation.gpus_per_task:
        raise ConfigError(
            "--gpus-per-task hides the GPUs of a node from each other, so that they can't copy directly; "
            "use sbatch --gpus-per-node."
        )
    if gpus not in (0, tasks):
        raise ConfigError(
            f"{gpus} GPUs and {tasks} tasks on each node: each task is one rank with one GPU; "
            f"use sbatch --ntasks-per-node={gpus}."
        )


def first_failure(run_dir: Path) -> Failure | None:
    """Why the ranks ended: one that was killed goes before peers that noticed, else the first of all counts.

    Those that srun interrupted since another had failed come last: a node's clock may be off.
    """
    found = [failed for file in _errors(run_dir).glob("rank-*.error") if (failed := failure.read(file))]
    killed = [_killed(file) for file in sorted(_errors(run_dir).glob("rank-*.killed"))]
    return next(filter(None, killed), None) or min(found, key=was_first, default=None)


def _killed(file: Path) -> Failure | None:
    """What a rank died of, unless that was the TERM that srun sends when another has failed, or its own doing."""
    number, node = file.read_text("utf-8").split()
    if int(number) in (signal.SIGTERM, signal.SIGABRT) or file.with_suffix(".error").exists():
        return None
    rank = int(file.stem.removeprefix("rank-"))
    hint = " (the kernel does that when memory runs out)" if int(number) == signal.SIGKILL else ""
    message = f"rank {rank} on {node} was killed by {signal.Signals(int(number)).name}{hint}."
    return Failure(file.stat().st_mtime, rank, 128 + int(number), message)


def stop_reason(run_dir: Path) -> str | None:
    """Why the run left before its end (stopped.json), or None if it didn't."""
    try:
        stopped = read_json(run_dir / "stopped.json")
    except FileNotFoundError:
        return None
    return str(stopped.get("reason")) if isinstance(stopped, dict) else None


def _tell(failed: Failure, run_dir: Path) -> None:
    """Raises the alert of a failure, if the run's configuration wants it; nothing that goes wrong here matters."""
    from launch.alerts import tell
    from trainer.run.directory import CONFIG, read_config

    if (run_dir / CONFIG).is_file():
        problem = problem_of(lambda: tell(failed, read_config(run_dir).track, run_dir))
        if problem:
            _say(f"no alert could be sent: {problem}")


def _make_ready(run_dir: Path, start: Starts, allocation: Allocation) -> None:
    start.write(run_dir)
    shutil.rmtree(_errors(run_dir), ignore_errors=True)
    _errors(run_dir).mkdir(parents=True, exist_ok=True)
    taken = nodes.take(run_dir, allocation.names, start.spares)
    nodes.leave_to_script(_errors(run_dir), taken)
    if left := [name for name in allocation.names if name not in taken]:
        _say(f"ranks on {len(taken)} of {len(allocation.names)} nodes, not on {', '.join(left)}")


def _errors(run_dir: Path) -> Path:
    return run_dir / "logs" / "slurm"


def _gave_up(start: Starts) -> str:
    return (
        f"gave up: {start.fruitless} starts in a row left no newer checkpoint than step {start.step}; look at the "
        "errors above, lower checkpoint.every or raise launch.grace_s, then submit again."
    )


def _say(line: str) -> None:
    print(f"banyan: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
