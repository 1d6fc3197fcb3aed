"""GPUs as their driver sees them: memory that others use, clocks that are held down, errors of memory."""

from __future__ import annotations

from typing import Any

import torch

from trainer.doctor.check import Check, Diagnosis, RankReading, Station, odd_ones, range_of_values
from trainer.doctor.nvml import THROTTLING, read_gpu

LEAST_FREE = 0.9  # share of a GPU's memory before anything was put there
NONE = "none: the ranks are on CPUs"


def measure(station: Station) -> dict[str, Any]:
    """Name, memory in bytes, and what NVML tells, of this rank's GPU; {} without one."""
    if station.mesh.device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(station.mesh.device)
    free, total = torch.cuda.mem_get_info(station.mesh.device)
    return {"name": properties.name, "total": total, "free": free, **read_gpu(str(properties.uuid))}


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """What all have, and whose differ or aren't well."""
    diagnosis, own = Diagnosis(), [reading for reading in readings if reading.values]
    if not own:
        diagnosis.measured.append(NONE)
        return diagnosis
    odd, usual = odd_ones(own, lambda reading: reading.values["name"])
    free = range_of_values([each.values["free"] / 1e9 for each in own], "GB free")
    diagnosis.measured.append(f"{len(own):,} × {usual}, {own[0].values['total'] / 1e9:.0f} GB, {free}")
    diagnosis.blame(odd, f"{odd[0].values['name'] if odd else ''}, {usual} on the others: the slowest sets the pace")
    told = [each.values for each in own if "throttling" in each.values]
    if len(told) < len(own):
        diagnosis.measured.append("clocks and errors weren't read: pip install 'banyan-train[energy]'")
    if heat := [each["temperature"] for each in told if "temperature" in each]:
        diagnosis.measured.append(range_of_values(heat, "°C"))

    def blame_those(is_wrong: Any, text: str) -> None:
        diagnosis.blame([each for each in own if is_wrong(each.values)], text)

    blame_those(lambda each: each["free"] < LEAST_FREE * each["total"], "its memory is in use: end what holds it")
    for bit, reason in THROTTLING.items():
        blame_those(lambda each, bit=bit: each.get("throttling", 0) & bit, f"its clocks are held down by {reason}")
    blame_those(
        lambda each: each.get("ecc_errors", 0) > 0, "uncorrected memory errors: reset the GPU, or leave the node out"
    )
    blame_those(
        lambda each: any(each.get("remapped_rows", [])[2:]),
        "rows of its memory wait to be replaced, or can't be: reset the GPU, or have it exchanged",
    )
    blame_those(
        lambda each: each.get("lanes", 16) < each.get("most_lanes", 0),
        "its PCIe link has fewer lanes than it could: see whether it sits right",
    )
    return diagnosis


CHECK = Check("gpus", measure, judge)
