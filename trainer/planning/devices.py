"""What a plan takes a device to be. Numbers are the makers' data sheets', dense, one direction for links.

Sources: NVIDIA's data sheets of H100, H200, A100, L40S and of the systems DGX A100 (200 Gb/s of network per GPU), DGX
H100/H200 (400 Gb/s) and DGX B200 (400 Gb/s; memory and its bandwidth divided by its eight GPUs); of consumer GPUs, the
Ampere, Ada and Blackwell whitepapers, with PCIe as their link and an Ethernet of 10 Gb/s (100 for the largest). Peaks
are those that MFU is measured against (trainer/track/metrics.py). Memory is what torch.cuda calls the total capacity,
which is 1 to 2 % less than the GiB on the sheet (7 % with the L40S's error correction).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.config.plan import PlanSettings
from trainer.errors import ConfigError
from trainer.track.metrics import peak_flops

GB, GIB = 10**9, 2**30


@dataclass(frozen=True)
class Device:
    """A device and its links; per device. `flops` is None where it isn't known, as for a CPU."""

    name: str
    flops: float | None  # dense bf16, per second
    flops_fp32: float | None  # without tensor cores, per second
    memory: int  # bytes
    bandwidth: float  # of its memory, bytes per second
    node_link: float  # to the others of its node, bytes per second and direction
    network: float  # to other nodes, bytes per second and direction
    watts: float
    key: str = ""  # in the table below; none for a device that isn't there

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.name != "cpu"


def _gpu(
    name: str, tflops_fp32: float, memory: float, bandwidth: float, node_link: float, network: float, watts: float
) -> Device:
    return Device(
        name,
        peak_flops(name),
        tflops_fp32 * 1e12,
        round(memory * GIB),
        bandwidth * GB,
        node_link * GB,
        network * GB,
        watts,
    )


DEVICES = {  # fp32 TFLOP/s, GiB, GB/s of memory, of the node's link, of the network, W
    "b200": _gpu("B200", 75, 178.3, 8000, 900, 50, 1000),
    "h200": _gpu("H200", 67, 139.8, 4800, 450, 50, 700),
    "h100": _gpu("H100", 67, 79.1, 3350, 450, 50, 700),
    "h100_pcie": _gpu("H100 PCIe", 51, 79.1, 2000, 64, 50, 350),
    "a100": _gpu("A100", 19.5, 79.1, 2039, 300, 25, 400),
    "a100_40gb": _gpu("A100 40GB", 19.5, 39.4, 1555, 300, 25, 400),
    "l40s": _gpu("L40S", 91.6, 44.4, 864, 32, 25, 350),
    "rtx5090": _gpu("RTX 5090", 104.8, 31.3, 1792, 64, 12.5, 575),
    "rtx5080": _gpu("RTX 5080", 56.3, 15.5, 960, 64, 1.25, 360),
    "rtx5070": _gpu("RTX 5070", 30.9, 11.6, 672, 64, 1.25, 250),
    "rtx4090": _gpu("RTX 4090", 82.6, 23.5, 1008, 32, 12.5, 450),
    "rtx4080": _gpu("RTX 4080", 48.7, 15.6, 717, 32, 1.25, 320),
    "rtx4070": _gpu("RTX 4070", 29.1, 11.6, 504, 32, 1.25, 200),
    "rtx4060": _gpu("RTX 4060", 15.1, 7.6, 272, 16, 1.25, 115),
    "rtx3090": _gpu("RTX 3090", 35.6, 23.6, 936, 32, 1.25, 350),
    "rtx3080": _gpu("RTX 3080", 29.8, 9.6, 760, 32, 1.25, 320),
    "rtx3070": _gpu("RTX 3070", 20.3, 7.7, 448, 32, 1.25, 220),
    "rtx3060": _gpu("RTX 3060", 12.7, 11.7, 360, 32, 1.25, 170),
}
DEVICES = {key: replace(device, key=key) for key, device in DEVICES.items()}


def device_of(name: str, settings: PlanSettings, *, sharing: int) -> Device:
    """The device that plan.device or launch.device names, with what plan.memory, plan.flops and so on say otherwise.

    A CPU's memory is this machine's, divided by the ranks `sharing` it.
    """
    if name == "cpu":
        found = Device("cpu", None, None, host_memory() // sharing, 20 * GB, 10 * GB, 1.25 * GB, 0.0)
    else:
        found = find_device(name, key="plan.device")
    overrides: dict[str, Any] = {
        "flops": settings.flops,
        "flops_fp32": settings.flops,
        "memory": settings.memory,
        "node_link": settings.node_link,
        "network": settings.network,
        "watts": settings.watts,
    }
    return replace(found, **{key: value for key, value in overrides.items() if value is not None})


def find_device(name: str, *, key: str) -> Device:
    """The GPU of the table that a configuration `key` names. ConfigError if there is none."""
    if name not in DEVICES:
        raise ConfigError(f"{key}={name}: not known; choose one of {', '.join((*DEVICES, 'cpu'))}.")
    return DEVICES[name]


def host_memory() -> int:
    """Bytes that processes here may use: the machine's memory, or less where a control group limits it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text(encoding="ascii").strip() if Path(limit).is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total
