"""Copies between a GPU and its host's memory, from pinned memory, as loading and offload use them."""

from __future__ import annotations

import time
from typing import Any

import torch

from trainer.doctor.check import Check, Diagnosis, RankReading, Station, range_of_values, slow_ones
from trainer.doctor.checks.gpus import NONE
from trainer.doctor.hardware import figures_of

BYTES = 2**28


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
    """Both directions beside what the device's bus should give, and who is slower than that, or than the others."""
    diagnosis, own = Diagnosis(), [reading for reading in readings if reading.values]
    if not own:
        diagnosis.measured.append(NONE)
        return diagnosis
    figures, share = figures_of(own[0].values["device"]), station.config.doctor.slow
    for key in ("to", "from"):
        text = f"{key} the device: {range_of_values([each.values[key] for each in own], 'GB/s')}"
        diagnosis.measured.append(f"{text}; should give {figures.copies:g}" if figures else text)
        slow, usual = slow_ones(own, key, share)
        diagnosis.blame(slow, f"copies {key} the device are slower than the usual {usual:.3g} GB/s: look at PCIe")
        low = [each for each in own if figures and each not in slow and each.values[key] < share * figures.copies]
        diagnosis.blame(low, f"copies {key} the device are slower than its bus: look at PCIe", among=own)
    return diagnosis


CHECK = Check("copies", measure, judge)
