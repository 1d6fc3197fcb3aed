"""What `banyan doctor` looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.knobs import knob, part
from trainer.config.launch import Launch
from trainer.config.run import Checkpoint, Run, Track

CHECKS = (
    "software",
    "gpus",
    "limits",
    "names",
    "clocks",
    "compute",
    "network",
    "copies",
    "local_disk",
    "shared_disk",
    "services",
    "rehearsal",
)


@dataclass
class DoctorSettings:
    """What is looked at, and where."""

    checks: list[str] = knob(list(CHECKS), f"What is looked at, of {', '.join(CHECKS)}.", common=True)
    folder: Optional[str] = knob(
        None,
        "Folder on the disk that all nodes share; one is made there and removed. By default runs.",
        common=True,
    )
    output: Optional[str] = knob(None, "File that gets everything as JSON, for machines.", common=True)
    seconds: float = knob(1.0, "How long each of the measurements takes, about.", "seconds", low=0.05, high=60)
    slow: float = knob(
        0.75, "A rank that reaches less than this share of the median rank's speed is called slow.", low=0.01, high=1
    )
    clock_s: float = knob(1.0, "Clocks further apart than this are called wrong.", "seconds")
    least_free: float = knob(1.0, "Free space, of each disk, below which it is called full.", "GB")
    zero_stage: int = knob(1, "ZeRO stage of the rehearsal.", high=3)
    timeout_s: float = knob(90.0, "Longest wait for a rehearsal's start, or its end.", "seconds", low=1)


@dataclass
class Doctor:
    """Configuration of `banyan doctor`."""

    doctor: DoctorSettings = part(DoctorSettings)
    checkpoint: Checkpoint = part(Checkpoint)
    track: Track = part(Track)
    run: Run = part(Run)
    launch: Launch = part(Launch)
