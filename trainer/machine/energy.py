"""Counters of energy that this machine offers: NVML's of a GPU, RAPL's of the processors. What there is, is read.

Neither counts memory modules, disks, network, fans or the power supply's loss. NVML's readings are within about 5 %, as
its documentation says; RAPL's are the processor's own account, of whatever runs on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
GPU, CPU = "gpu", "cpu"


@dataclass
class Nvml:
    """The energy of one NVIDIA GPU since its driver was loaded (nvmlDeviceGetTotalEnergyConsumption, from Volta on)."""

    nvml: Any
    handle: Any
    kind = GPU

    def joules(self) -> float:
        """The counter, in joules."""
        return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3


@dataclass
class Rapl:
    """The energy of all processors of this host, summed over packages; each counter begins anew at its range's end."""

    packages: list[tuple[Path, int]]  # energy_uj and max_energy_range_uj, microjoules
    kind = CPU
    _last: list[int] = field(default_factory=list)
    _total: int = 0

    def joules(self) -> float:
        """Joules since the first call. A package that used more than its range between two calls is counted short."""
        now = [int(path.read_text()) for path, _ in self.packages]
        for before, after, (_, most) in zip(self._last or now, now, self.packages, strict=True):
            self._total += (after - before) % (most + 1)
        self._last = now
        return self._total / 1e6


def open_nvml(uuid: str) -> Nvml | None:
    """The counter of the GPU with this UUID ("GPU-…"); None without driver, nvidia-ml-py or such a counter (MIG)."""
    try:
        import pynvml

        pynvml.nvmlInit()
        meter = Nvml(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
        meter.joules()
    except Exception:  # NVML has an error of its own for each reason
        return None
    return meter


def open_rapl(powercap: Path = POWERCAP) -> Rapl | None:
    """The counters of all packages; None where there are none, or one can't be read: by default root alone may."""
    packages = []
    try:
        for folder in sorted(powercap.iterdir()):
            if re.fullmatch(r"(intel|amd)-rapl:\d+", folder.name):
                packages.append((folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())))
        meter = Rapl(packages)
        meter.joules()
    except (OSError, ValueError):
        return None
    return meter if packages else None
