"""What this machine's processor can do, read from the kernel: nothing is imported for it."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16 = {"amx_bf16", "avx512_bf16", "bf16"}  # Intel's, Intel's and AMD's, ARM's


def multiplies_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether it multiplies bf16 in hardware, faster than fp32, instead of emulating it."""
    return bool(BF16 & instructions(cpuinfo))


def instructions(cpuinfo: Path = CPUINFO) -> set[str]:
    """Sets of instructions that it has, by the kernel's names; none where that isn't Linux."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    flags = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return set(next(flags, []))
