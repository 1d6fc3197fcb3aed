"""A GPU as NVIDIA's driver tells of it (NVML); what it doesn't tell is left out."""

from __future__ import annotations

import contextlib
from typing import Any

THROTTLING = {  # NVML's bits for reasons why clocks are lower than they could be, but for idleness and users' limits
    0x08: "a hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "the power brake",
}


def read_gpu(uuid: str) -> dict[str, Any]:
    """Clocks (MHz), temperature (°C), power (W), reasons of throttling (bits), uncorrected errors of memory, rows of it
    that were and weren't replaced, width of the PCIe link; {} without NVML."""
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # NVML has an error of its own for each reason
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        questions = {
            "clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "most_clock_mhz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "temperature": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            "watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "most_watts": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            "throttling": lambda: int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
            "ecc_errors": lambda: int(
                pynvml.nvmlDeviceGetTotalEccErrors(
                    handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
                )
            ),
            "remapped_rows": lambda: [int(each) for each in pynvml.nvmlDeviceGetRemappedRows(handle)],
            "lanes": lambda: pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
            "most_lanes": lambda: pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
        }
        for key, question in questions.items():
            with contextlib.suppress(Exception):  # not every GPU knows every answer
                found[key] = question()
    return found


def reasons_of(bits: int) -> list[str]:
    """Why clocks are held down, in words."""
    return [reason for bit, reason in THROTTLING.items() if bits & bit]
