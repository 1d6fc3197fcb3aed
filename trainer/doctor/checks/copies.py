"""Copies between a GPU and its host's memory, from pinned memory, as loading and offload use them."""

from __future__ import annotations

import time
from typing import Any

import torch

from trainer.doctor.check import (
    Check,
    Diagnosis,
    Finding,
    RankReading,
    Station,
    hosts_of,
    name,
    range_of_values,
    slow_ones,
)

BYTES = 2**28
EXPECTED = {"H200": 55.0, "H100": 52.0, "A100": 23.0}  # GB/s, as Azure's node checks expect


def measure(station: Station) -> dict[str, Any]:
    """GB/s to the device and back; {} without one."""
    device = station.mesh.device
    if device.type != "cuda":
        return {}
    host = torch.empty(BYTES, dtype=torch.uint8, pin_memory=True)
    on_device = torch.empty(BYTES, dtype=torch.uint8, device=device)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(device)}
    for key, target, source in (("to", on_device, host), ("from", host, on_device)):
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(4):
            target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        found[key] = 4 * BYTES / (time.perf_counter() - began) / 1e9
    return found


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """Both directions beside what the device's bus should give, and who is slower."""
    diagnosis, own = Diagnosis(), [reading for reading in readings if reading.values]
    if not own:
        diagnosis.measured.append("none: the ranks are on CPUs")
        return diagnosis
    should = next((value for key, value in EXPECTED.items() if key in own[0].values["device"]), None)
    for key in ("to", "from"):
        text = f"{key} the device: {range_of_values([each.values[key] for each in own], 'GB/s')}"
        diagnosis.measured.append(f"{text}; should give {should:g}" if should else text)
        slow, usual = slow_ones(own, key, station.config.doctor.slow)
        if slow:
            text = f"{name(slow)}: copies {key} the device are slower than the usual {usual:.3g} GB/s: look at PCIe"
            diagnosis.findings.append(Finding(text, hosts_of(slow)))
    return diagnosis


CHECK = Check("copies", measure, judge)
