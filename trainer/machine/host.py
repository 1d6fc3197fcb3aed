"""This machine: the name that its cluster knows it by, free ports, and what its processor can do, by the kernel."""

from __future__ import annotations

import os
import platform
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16 = {"amx_bf16", "avx512_bf16", "bf16"}  # Intel's, Intel's and AMD's, ARM's
PORTS = range(20000, 32768)
"""Below those that the kernel gives to outgoing connections (ip_local_port_range, from 32768), one of which could take
a port between its choice here and its use by rank 0; above those of Ray's workers (from 10002 to 19999)."""

NODE_VARIABLE = "BANYAN_NODE"  # how Ray's tools call this node: by its address


def node_name(environment: Mapping[str, str] = os.environ) -> str:
    """The name by which the scheduler knows this node, or the host's own."""
    return environment.get("SLURMD_NODENAME") or environment.get(NODE_VARIABLE) or platform.node()


def free_port() -> int:
    """A TCP port on this machine that nobody listens on."""
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
        return port


def multiplies_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor multiplies bf16 in hardware, faster than fp32, instead of emulating it."""
    return bool(BF16 & instructions(cpuinfo))


def instructions(cpuinfo: Path = CPUINFO) -> set[str]:
    """Sets of instructions that the processor has, by the kernel's names; none where that isn't Linux."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    flags = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return set(next(flags, []))
