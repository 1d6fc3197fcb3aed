"""GPUs as their driver sees them: memory that others use, clocks that are held down, errors of memory."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from trainer.doctor.check import Check, Diagnosis, Finding, RankReading, Station, hosts_of, name, odd_ones

LEAST_FREE = 0.9  # share of a GPU's memory before anything was put there
THROTTLING = {  # NVML's bits for reasons why clocks are lower than they could be, but for idleness and users' limits
    0x08: "a hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "the power brake",
}


def measure(station: Station) -> dict[str, Any]:
    """Name, memory in bytes, and what NVML tells, of this rank's GPU; {} without one."""
    if station.mesh.device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(station.mesh.device)
    free, total = torch.cuda.mem_get_info(station.mesh.device)
    found: dict[str, Any] = {"name": properties.name, "total": total, "free": free}
    with contextlib.suppress(Exception):  # NVML has an error of its own for each reason
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        found["clock_mhz"] = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
        found["most_clock_mhz"] = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
        found["temperature"] = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        found["throttling"] = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        with contextlib.suppress(pynvml.NVMLError):
            found["ecc_errors"] = int(
                pynvml.nvmlDeviceGetTotalEccErrors(
                    handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
                )
            )
    return found


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """What all have, and whose differ or aren't well."""
    diagnosis, own = Diagnosis(), [reading for reading in readings if reading.values]
    if not own:
        diagnosis.measured.append("none: the ranks are on CPUs")
        return diagnosis
    odd, usual = odd_ones(own, lambda reading: reading.values["name"])
    diagnosis.measured.append(f"{len(own):,} × {usual}, {own[0].values['total'] / 1e9:.0f} GB")
    if odd:
        text = f"{odd[0].values['name']} on {name(odd)}, {usual} on the others: the slowest sets the pace"
        diagnosis.findings.append(Finding(text, hosts_of(odd)))
    if "throttling" not in own[0].values:
        diagnosis.measured.append("clocks and errors weren't read: pip install 'banyan-train[energy]'")
    used = [each for each in own if each.values["free"] < LEAST_FREE * each.values["total"]]
    if used:
        diagnosis.findings.append(Finding(f"memory is in use on {name(used)}: end what holds it", hosts_of(used)))
    for bit, reason in THROTTLING.items():
        if slow := [each for each in own if each.values.get("throttling", 0) & bit]:
            diagnosis.findings.append(Finding(f"clocks held down by {reason} on {name(slow)}", hosts_of(slow)))
    if broken := [each for each in own if each.values.get("ecc_errors", 0) > 0]:
        text = f"uncorrected memory errors on {name(broken)}: reset the GPU, or leave the node out"
        diagnosis.findings.append(Finding(text, hosts_of(broken)))
    return diagnosis


CHECK = Check("gpus", measure, judge)
