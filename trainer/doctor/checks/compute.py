"""Matrix products of each rank's device, all at the same time as in training: one that is slower than others holds all
up; all that are slower than the device should be lose that much everywhere."""

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
from trainer.track.metrics import peak_flops

SIZE = {"cuda": 8192, "cpu": 1024}
SHARE_OF_PEAK = 0.6  # of dense bf16, that a product of this size should reach
ROUNDS = 2  # a rank is slow that is so in each


def measure(station: Station) -> dict[str, Any]:
    """TFLOP/s of products of bf16 (fp32 on a CPU) matrices, in each round."""
    device, settings = station.mesh.device, station.config.doctor
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
    _products(a, b, 0.1)
    for number in range(ROUNDS):
        station.mesh.barrier()
        found[f"tflops_{number}"] = _products(a, b, settings.seconds / ROUNDS)
    found["tflops"] = max(found[f"tflops_{number}"] for number in range(ROUNDS))
    return found


def _products(a: torch.Tensor, b: torch.Tensor, seconds: float) -> float:
    """TFLOP/s over so many seconds: of all the time, not of the best product, so that a rank that is held up shows."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        torch.matmul(a, b)
        count += 1
        if a.device.type == "cuda" and count % 8 == 0:
            torch.cuda.synchronize(a.device)
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return 2 * a.shape[0] ** 3 * count / (time.perf_counter() - began) / 1e12


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """Who is slower than the others, and whether all are slower than their device should be."""
    diagnosis, share = Diagnosis(), station.config.doctor.slow
    peak = peak_flops(readings[0].values["device"])
    speeds = [reading.values["tflops"] for reading in readings]
    should = f"; {readings[0].values['device']} should give {SHARE_OF_PEAK * peak / 1e12:.0f}" if peak else ""
    diagnosis.measured.append(f"{range_of_values(speeds, 'TFLOP/s')} a rank{should}")
    slow = [slow_ones(readings, f"tflops_{number}", share)[0] for number in range(ROUNDS)]
    always = [reading for reading in readings if all(reading in each for each in slow)]
    if always:
        usual = slow_ones(readings, "tflops", share)[1]
        got = range_of_values([each.values["tflops"] for each in always], "TFLOP/s")
        text = f"{name(always)}: {got}, where others reach {usual:.3g}: leave the node out, or see what runs there"
        diagnosis.findings.append(Finding(text, hosts_of(always)))
    if peak and (low := [each for each in readings if each.values["tflops"] * 1e12 < SHARE_OF_PEAK * peak]):
        text = f"{name(low)}: below {SHARE_OF_PEAK:.0%} of the device's peak: look at clocks, power limits and heat"
        diagnosis.findings.append(Finding(text, hosts_of(low) if len(low) < len(readings) else ()))
    return diagnosis


CHECK = Check("compute", measure, judge)
