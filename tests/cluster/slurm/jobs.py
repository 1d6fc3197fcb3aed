"""Small runs as SLURM jobs: how they are submitted, watched, disturbed, and compared with a calm local run."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from launch.compose import compose
from tests.cluster.slurm.cluster import SlurmCluster
from tests.run_ranks import pretrain, read_metrics, run_ranks

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "slurm"
ON_CPUS = ("--gpus-per-node=0", "--ntasks-per-node=1", "--cpus-per-task=1")
START_S = 300  # longest wait for something that a start of the ranks comes before


def settings(data: Path, steps: int, every: int) -> dict[str, object]:
    """The keys of a run of seconds on two ranks."""
    return {
        "data.path": data,
        "data.sequence_length": 32,
        "data.shuffle_shards": 2,
        "model.hidden_size": 48,
        "model.intermediate_size": 96,
        "model.num_hidden_layers": 2,
        "model.dropout": 0.1,
        "train.steps": steps,
        "train.batch_size": 8,
        "train.micro_batch_size": 2,
        "optimizer.lr": 3e-3,
        "schedule.warmup_steps": 2,
        "checkpoint.every": every,
        "evaluate.every": 0,
        "evaluate.prompt": "null",
        "parallel.zero_stage": 1,
        "track.every": 1,
        "track.wandb.mode": "disabled",
        "run.lock_timeout_s": 10,
        "launch.threads": 1,
    }


def arguments(keys: dict[str, object], run_dir: Path, *more: str) -> list[str]:
    """What a user types after `banyan pretrain`."""
    return [f"{key}={value}" for key, value in keys.items()] + [f"run.dir={run_dir}", *more]


def calm_run(keys: dict[str, object], run_dir: Path) -> Path:
    """The same run on two local processes, undisturbed."""
    config = compose("pretrain", arguments(keys, run_dir))
    assert run_ranks(pretrain, config, 2) == [0, 0]
    return run_dir


def course(run_dir: Path) -> list[tuple[int, float, float]]:
    """(step, loss, gradient norm) of every logged step."""
    return [(row["step"], row["train/loss"], row["train/grad_norm"]) for row in read_metrics(run_dir)]


def last_step(run_dir: Path) -> int:
    """The last step that is logged."""
    try:
        return course(run_dir)[-1][0]
    except (OSError, IndexError, ValueError):
        return 0


def write_setup(folder: Path) -> Path:
    """A file for BANYAN_SETUP: this Python, this tree, as a researcher's own environment would be."""
    path = folder / "setup.sh"
    python = shlex.quote(str(Path(sys.executable).parent))
    lines = [
        f"export PATH={python}:$PATH PYTHONPATH={shlex.quote(str(ROOT))} PYTHONWARNINGS=default",
        "export DS_ACCELERATOR=cpu WANDB_MODE=disabled",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class Job:
    """One job of a cluster, its run directory and its log."""

    cluster: SlurmCluster
    number: str
    run_dir: Path
    log_file: Path

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def state(self) -> dict[str, str]:
        """As scontrol tells it."""
        return self.cluster.job(self.number)

    def wait_for_step(self, step: int, timeout_s: float = START_S) -> None:
        """Returns once `step` is logged."""
        self.wait_for(lambda: last_step(self.run_dir) >= step, f"step {step}", timeout_s)

    def wait_for(self, ready, what: str, timeout_s: float = START_S) -> None:
        """Returns once `ready()`; fails, with the log, if that takes too long or the job ends before."""
        try:
            self.cluster.wait_for(lambda: ready() or self._has_ended(), what, timeout_s)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log}") from None
        assert ready(), f"the job ended before {what}\n{self.log}"

    def _has_ended(self) -> bool:
        return self.state()["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    def wait_for_end(self, timeout_s: float = START_S) -> str:
        """Its last state."""
        try:
            return self.cluster.wait(self.number, timeout_s=timeout_s)["JobState"]
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    def let_go_on(self, restarts: int) -> None:
        """Waits until it is requeued for the `restarts`-th time, and ends its wait."""

        def requeued() -> bool:
            state = self.state()
            return state["Restarts"] == str(restarts) and state["JobState"] == "PENDING"

        self.wait_for(requeued, f"requeue {restarts}")
        self.cluster.start_now(self.number)

    def near_time_limit(self) -> None:
        """What SLURM does some time before the limit."""
        self.cluster.run(["scancel", "--signal=USR1", "--batch", self.number])

    def signal_ranks(self, number: signal.Signals, rank: int) -> None:
        """Sends a signal to one rank's Python."""
        pids = [
            pid
            for name in self.cluster.nodes
            for pid in self.cluster.pids_on(name, self.number, rank)
            if b"-m\0launch\0pretrain" in Path(f"/proc/{pid}/cmdline").read_bytes()
            and Path(f"/proc/{pid}/comm").read_text().startswith("python")
        ]
        assert pids, f"no rank {rank}\n{self.log}"
        for pid in pids:
            os.kill(pid, number)


def banyan(cluster: SlurmCluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`banyan pretrain launch=slurm ARGUMENTS`, typed in `folder` on the login node."""
    return banyan_verb(cluster, folder, "pretrain", *arguments)


def banyan_verb(cluster: SlurmCluster, folder: Path, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same of any verb."""
    command = [sys.executable, "-P", "-m", "launch", verb, "launch=slurm", *arguments]
    own = {"PYTHONPATH": str(ROOT), "BANYAN_SETUP": str(write_setup(folder))}
    return cluster.run(command, folder=folder, environment=own, timeout_s=120, check=False)


def submit_pretrain(
    cluster: SlurmCluster, folder: Path, options: list[str], overrides: list[str], export: str | None = None
) -> Job:
    """`sbatch OPTIONS slurm/pretrain.sbatch OVERRIDES` in `folder`, where its log goes."""
    run_dir = next(Path(text.partition("=")[2]) for text in overrides if text.startswith("run.dir="))
    export = export or f"--export=ALL,BANYAN_SETUP={write_setup(folder)}"
    number = cluster.submit(*options, export, str(SCRIPTS / "pretrain.sbatch"), *overrides, folder=folder)
    return Job(cluster, number, run_dir, folder / f"banyan-{number}.log")
