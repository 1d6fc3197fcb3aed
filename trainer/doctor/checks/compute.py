"""Matrix products of each rank's device, all at the same time as in training: one that is slower than others holds all
up; all that are slower than the device should be lose that much everywhere."""

from __future__ import annotations

import time
from typing import Any

import torch

from trainer.doctor.check import Check, Diagnosis, RankReading, Station, range_of_values, slow_ones
from trainer.doctor.hardware import processor_peak
from trainer.doctor.nvml import read_gpu, reasons_of
from trainer.track.metrics import peak_flops

SIZE = {"cuda": 8192, "cpu": 1024}
SHARE_OF_PEAK = 0.6  # of dense bf16, that a product of this size should reach
ROUNDS = 2  # a rank is slow that is so in each
BUSY = 0.9  # share of the time for which a rank that nothing holds up has its processors
QUEUED = 256  # products that keep a GPU busy while its clock is read


def measure(station: Station) -> dict[str, Any]:
    """TFLOP/s of products of bf16 (fp32 on a CPU) matrices, in each round.

    And of a GPU its clock and why it is held down, under load; of a CPU the share of the time for which it was had.
    """
    device, settings = station.mesh.device, station.config.doctor
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(SIZE[device.type], SIZE[device.type], device=device).to(dtype) for _ in range(2))
    found: dict[str, Any] = {"device": "cpu", "threads": torch.get_num_threads()}
    _products(a, b, 0.1)
    began, used = time.perf_counter(), time.process_time()
    for number in range(ROUNDS):
        station.mesh.barrier()
        found[f"tflops_{number}"] = _products(a, b, settings.seconds / ROUNDS)
    found["busy"] = (time.process_time() - used) / (time.perf_counter() - began) / torch.get_num_threads()
    found["tflops"] = max(found[f"tflops_{number}"] for number in range(ROUNDS))
    if device.type == "cuda":
        for _ in range(QUEUED):
            torch.matmul(a, b)
        properties = torch.cuda.get_device_properties(device)
        found |= {"device": properties.name, **read_gpu(str(properties.uuid))}
        torch.cuda.synchronize(device)
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
    first = readings[0].values
    peak = peak_flops(first["device"])
    speeds = [reading.values["tflops"] for reading in readings]
    diagnosis.measured.append(f"{range_of_values(speeds, 'TFLOP/s')} a rank{_expectation(first, peak)}")
    if clocks := [each.values["clock_mhz"] for each in readings if "clock_mhz" in each.values]:
        most = f"of {first['most_clock_mhz']:,} MHz" if "most_clock_mhz" in first else "MHz"
        diagnosis.measured.append(f"clocks under load: {range_of_values(clocks, most)}")
    slow = [slow_ones(readings, f"tflops_{number}", share)[0] for number in range(ROUNDS)]
    always = [reading for reading in readings if all(reading in each for each in slow)]
    if always:
        usual = slow_ones(readings, "tflops", share)[1]
        got = range_of_values([each.values["tflops"] for each in always], "TFLOP/s")
        why = _in_want_of_processors(always)
        diagnosis.blame(
            always, f"{got}, where others reach {usual:.3g}{why}: leave the node out, or see what runs there"
        )
    low = [each for each in readings if peak and each.values["tflops"] * 1e12 < SHARE_OF_PEAK * peak]
    text = f"below {SHARE_OF_PEAK:.0%} of the device's peak: look at clocks, power limits and heat"
    diagnosis.blame(low, text, among=readings)
    for reading in readings:
        if reasons := reasons_of(reading.values.get("throttling", 0)):
            diagnosis.blame([reading], f"its clocks are held down by {' and '.join(reasons)} under load")
    return diagnosis


def _expectation(first: dict[str, Any], peak: float | None) -> str:
    if peak:
        return f"; {first['device']} should give {SHARE_OF_PEAK * peak / 1e12:.0f}"
    threads = first.get("threads", 1)
    most = processor_peak(threads) if first["device"] == "cpu" else None
    many = f"{threads:,} thread{'s' * (threads > 1)}"
    return f"; by clock and instructions {many} can't exceed {most / 1e12:.3g}" if most else ""


def _in_want_of_processors(slow: list[RankReading]) -> str:
    """Of CPU ranks that are slow since they didn't get to compute."""
    had = min(each.values.get("busy", 1.0) for each in slow)
    if slow[0].values["device"] != "cpu" or had >= BUSY:
        return ""
    return (
        f", with its processors for {had:.0%} of the time (others use them, or a limit or its priority holds it back)"
    )


CHECK = Check("compute", measure, judge)
