"""SLURM's clients as on a login node, each under a timeout: they can hang for ever when the cluster is down."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
)
_FIELD = re.compile(r"(\S+?)=(.*?)(?=\s[A-Za-z][\w/:]*=|$)")


class Client:
    """Commands to a cluster. Its user gives `environment` and `inside`."""

    environment: dict[str, str]
    log_folder: Path

    def inside(self, command: Sequence[str], folder: Path | None = None) -> list[str]:
        """The command line that runs a command on the login node, in `folder` or here."""
        raise NotImplementedError

    def tail_logs(self, lines: int = 20) -> str:
        """The end of each daemon's log."""
        parts = []
        for path in sorted(self.log_folder.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- {path.name}", *tail]))
        return "\n".join(parts)

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float = 30,
        check: bool = True,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the login node, with `environment` added. RuntimeError if it fails and `check`."""
        done = subprocess.run(
            self.inside(command, folder),
            env=self.environment | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def submit(self, *arguments: str, folder: Path | None = None) -> str:
        """`sbatch` with these arguments; the number of the job."""
        return self.run(["sbatch", "--parsable", *arguments], folder=folder).stdout.strip().split(";")[0]

    def job(self, job_id: str) -> dict[str, str]:
        """A job as `scontrol show job` tells of it."""
        return records(self.run(["scontrol", "-o", "show", "job", job_id]).stdout)[0]

    def jobs(self) -> list[dict[str, str]]:
        """All jobs, ended ones too."""
        return records(self.run(["scontrol", "-o", "show", "job"]).stdout)

    def steps(self, job_id: str) -> list[dict[str, str]]:
        """The steps of a job that run now, its batch script among them."""
        found = records(self.run(["scontrol", "-o", "show", "step"]).stdout)
        return [step for step in found if step["StepId"].split(".")[0] == job_id]

    def wait(self, job_id: str, until: Iterable[str] = ENDED, timeout_s: float = 60) -> dict[str, str]:
        """The job, once its state is one of `until`. TimeoutError, with the logs, if that takes too long."""
        wanted, states = set(until), ", ".join(sorted(until))
        self.wait_for(lambda: self.job(job_id)["JobState"] in wanted, f"job {job_id} in {states}", timeout_s)
        return self.job(job_id)

    def start_now(self, job_id: str) -> None:
        """Ends the wait of a requeued job.

        Not at once: in the second in which a node ended the job it takes its new start for the old one, which fails it.
        """
        self.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now+2"])

    def set_down(self, node: str) -> None:
        """Takes a node out of service."""
        self.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test"])

    def set_up(self, node: str) -> None:
        """Puts it back; one that is back already, as a node is that has just booted, stays so."""
        self.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)

    def wait_until(self, nodes: Sequence[str], states: str, timeout_s: float = 60) -> None:
        """Returns once each of the nodes answers and is in one of the comma-separated states, such as "idle"."""

        def ready() -> bool:
            answer = self.run(["sinfo", "-h", "-N", "-r", "-t", states, "-o", "%N"], check=False).stdout
            return set(nodes) <= set(answer.split())

        self.wait_for(ready, f"{', '.join(nodes)} {states}", timeout_s)

    def wait_for(self, ready: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Returns once `ready()` is true. TimeoutError, with the logs, if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {timeout_s} s\n{self.tail_logs()}")
            time.sleep(0.1)


def records(text: str) -> list[dict[str, str]]:
    """What `scontrol -o show` prints, a dict for each line."""
    lines = [line for line in text.splitlines() if "=" in line]
    return [dict(_FIELD.findall(line)) for line in lines]
