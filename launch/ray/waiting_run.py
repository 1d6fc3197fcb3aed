"""What a driver on Ray leaves in the run directory while it waits for room, so that `banyan status` can say so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import BanyanError
from trainer.run.queue import end_waiting, record_waiting

SUBMISSION_ID = "RAY_SUBMISSION_ID"  # environment variable of ranks: the job as `ray job` calls it
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's own, of the command of a submitted job


@dataclass(frozen=True)
class WaitingRun:
    """A run that a driver is about to start; None where the verb doesn't train. `job` is what was submitted, if any."""

    run_dir: Path | None
    job: str = ""

    def waits(self, what: str) -> None:
        """There is no room at the moment. Of a folder that can't be written, the ranks will say so."""
        if self.run_dir is not None:
            with contextlib.suppress(OSError, BanyanError):
                record_waiting(self.run_dir, self.job, what)

    def ends(self) -> None:
        """It was stopped while it waited."""
        if self.run_dir is not None:
            with contextlib.suppress(OSError):
                end_waiting(self.run_dir)


def submission_id(environment: Mapping[str, str]) -> str:
    """The job whose command this process is, as `ray job submit` named it; empty for a driver that is nobody's job."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return str(json.loads(environment[JOB_CONFIG])["metadata"]["job_submission_id"])
    return ""
