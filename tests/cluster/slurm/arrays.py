"""Job arrays of slurm/prepare.sbatch: how they are submitted, and what became of their elements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.cluster.slurm.cluster import SlurmCluster
from tests.cluster.slurm.jobs import SCRIPTS, write_setup


@dataclass
class PrepareArrays:
    """Arrays that one user submits in `folder`, where their logs go; `keys` are what is typed after the script."""

    cluster: SlurmCluster
    folder: Path
    keys: list[str]
    cpus: int
    verb: str = "prepare"

    def submit(self, elements: str) -> str:
        """The number of an array of these elements, such as "0-1"."""
        export = f"--export=ALL,BANYAN_SETUP={write_setup(self.folder)},BANYAN_VERB={self.verb}"
        options = [f"--array={elements}", f"--cpus-per-task={self.cpus}", export]
        return self.cluster.submit(*options, str(SCRIPTS / "prepare.sbatch"), *self.keys, folder=self.folder)

    def element(self, array: str, number: str) -> dict[str, str] | None:
        """An element as scontrol tells of it; None before it is told apart."""
        jobs = [job for job in self.cluster.jobs() if job.get("ArrayJobId") == array]
        return next((job for job in jobs if job["ArrayTaskId"] == number), None)

    def disturb(self, array: str, victim: str) -> None:
        """Has element 1 "requeued" or "cancelled", and waits for element 0, and for the requeued one."""
        job = self.element(array, "1")["JobId"]
        if victim == "requeued":
            self.cluster.run(["scontrol", "requeue", job])
            self.cluster.start_now(job)
        else:
            self.cluster.run(["scancel", f"{array}_1"])
        self.wait_for(array, "0", 240)
        if victim == "requeued":
            assert self.cluster.wait(job, timeout_s=120)["JobState"] == "COMPLETED", self.log()

    def wait_for(self, array: str, number: str, timeout_s: float) -> None:
        """Returns once an element is done."""
        self.cluster.wait_for(
            lambda: (self.element(array, number) or {}).get("JobState") == "COMPLETED",
            f"element {number}",
            timeout_s,
        )

    def log(self) -> str:
        """All that elements have printed."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("banyan-prepare-*.log")))
