"""Versions: of two that differ between ranks, one is wrong."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trainer import __version__
from trainer.doctor.check import Check, Diagnosis, RankReading, Station, odd_ones
from trainer.doctor.hardware import least_driver

PACKAGES = ("deepspeed", "numpy", "ray", "safetensors", "tokenizers", "transformers", "wandb")
SILENT = ("kernel", "unused")  # kernels may differ
DRIVER = Path("/proc/driver/nvidia/version")


def measure(station: Station) -> dict[str, Any]:
    """Versions by name; None for what isn't there."""
    found: dict[str, Any] = {
        "banyan": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "torch": str(torch.__version__),
        "kernel": platform.release(),
    }
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    with contextlib.suppress(OSError):
        found["driver"] = _driver_version(DRIVER.read_text(encoding="utf-8"))
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    if station.mesh.device.type == "cuda":
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    elif "driver" in found:
        found["unused"] = os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1")
    return found


def _driver_version(text: str) -> str:
    """Of the first line of /proc/driver/nvidia/version."""
    return next((word for word in text.split() if word[0].isdigit() and "." in word), text.splitlines()[0])


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """One line of what all have, a finding for each that some have otherwise; kernels may differ."""
    diagnosis, common = Diagnosis(), []
    for key in sorted({key for reading in readings for key in reading.values}):
        odd, usual = odd_ones(readings, lambda reading, key=key: reading.values.get(key))  # type: ignore[misc]
        if odd and key not in SILENT:
            other = odd[0].values.get(key) or "none"
            diagnosis.blame(odd, f"{key} {other}, {usual or 'none'} on the others: use one environment on all nodes")
        elif key not in ("unused", "executable"):
            common.append(f"{key} {usual}")
    diagnosis.measured.append(", ".join(common))
    diagnosis.blame(
        [each for each in readings if each.values.get("unused")],
        "it has NVIDIA's driver, and torch finds no GPU: install a build of torch for CUDA, look at nvidia-smi, or set "
        "CUDA_VISIBLE_DEVICES= to have CPUs",
    )
    for reading in readings:
        least, driver = least_driver(reading.values.get("cuda")), reading.values.get("driver", "")
        if least and driver.partition(".")[0].isdigit() and int(driver.partition(".")[0]) < least:
            text = (
                f"driver {driver}, and CUDA {reading.values['cuda']} needs {least}: update it, or take an older torch"
            )
            diagnosis.blame([reading], text)
    return diagnosis


CHECK = Check("software", measure, judge)
