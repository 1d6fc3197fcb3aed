"""`banyan prepare` in a SLURM job array: every element takes a share of the work, and the rest of those that ended."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.data.text.shared_work import WorkShare
from trainer.errors import ConfigError

_VARIABLES = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")


def share_of(environment: Mapping[str, str]) -> WorkShare | None:
    """The share of this element; None outside of arrays.

    Its number is only where it begins: with the numbers 3, 7, 8 two elements may begin at the same place.
    """
    job = environment.get("SLURM_ARRAY_JOB_ID")
    if job is None:
        return None
    try:
        element, first, count = (int(environment[name]) for name in _VARIABLES)
    except (KeyError, ValueError):
        raise ConfigError(
            f"SLURM_ARRAY_JOB_ID={job}, but of {', '.join(_VARIABLES)} not all are whole numbers: unset the first to "
            "prepare outside of a job array."
        ) from None
    return WorkShare((element - first) % max(1, count), max(1, count), f"{job}_{element}")
