"""What hardware should give: of GPUs by Azure's node checks (8 GPUs a node), of processors and adapters by their clocks
and links. Of disks nothing is known beforehand: hosts are held against each other alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.machine.host import CPUINFO, instructions

GPUS_OF_NODE = 8  # that the figures of all-reduce hold for
LEAST_DRIVER = {"12": 525, "13": 580}  # of NVIDIA's, by the major version of CUDA that torch was built for
CLOCK = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")  # kHz
NETWORK = Path("/sys/class/net")


@dataclass(frozen=True)
class GpuFigures:
    """GB/s: all-reduce's bus bandwidth by NVLink and by InfiniBand with an adapter for each GPU, and copies by PCIe."""

    within: float
    across: float
    copies: float


GPUS = {
    "H200": GpuFigures(480, 400, 55),
    "H100": GpuFigures(460, 380, 52),
    "A100": GpuFigures(228, 180, 23),
}


def figures_of(device: str) -> GpuFigures | None:
    """Of a GPU by torch's name of it; None for a slice of one, and for others."""
    return None if "MIG" in device else next((figures for key, figures in GPUS.items() if key in device), None)


def all_reduce_figure(device: str, group: str, hosts: int, ranks_of_host: int) -> float | None:
    """GB/s of bus bandwidth that all-reduce of a `group` (all, within, across) should have; None where none is known.

    A group across hosts has one rank of each, and so one adapter. Cards in PCIe slots have no NVLink between all.
    """
    figures = figures_of(device)
    if figures is None or ranks_of_host != GPUS_OF_NODE or "PCIe" in device:
        return None
    if group == "within" or hosts == 1:
        return figures.within
    return figures.across if group == "all" else figures.across / GPUS_OF_NODE


def least_driver(cuda: str | None) -> int | None:
    """Major version of NVIDIA's driver that a build of torch needs."""
    return LEAST_DRIVER.get((cuda or "").partition(".")[0])


def processor_peak(threads: int, cpuinfo: Path = CPUINFO, clock: Path = CLOCK) -> float | None:
    """FLOP/s of fp32 that so many threads can't exceed, each on a core of its own: its clock times what it computes in
    a cycle. None where that isn't known."""
    flops, hertz = _flops_of_cycle(cpuinfo), _clock(cpuinfo, clock)
    return threads * flops * hertz if flops and hertz else None


def _flops_of_cycle(cpuinfo: Path) -> int | None:
    """Two units of fused multiplication and addition, each as wide as a register."""
    known = instructions(cpuinfo)
    return 64 if "avx512f" in known else 32 if {"avx2", "fma"} <= known else None


def _clock(cpuinfo: Path, clock: Path) -> float | None:
    """Hertz: the highest clock, or that of now where the kernel doesn't tell."""
    try:
        return 1e3 * float(clock.read_text())
    except (OSError, ValueError):
        pass
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        return 1e6 * max(float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz"))
    except (OSError, ValueError):
        return None


def adapter_speed(interface: str, network: Path = NETWORK) -> float | None:
    """GB/s of a network interface, as its driver tells; None where it doesn't."""
    try:
        megabits = float((network / interface / "speed").read_text())
    except (OSError, ValueError):
        return None
    return megabits / 8e3 if megabits > 0 else None
