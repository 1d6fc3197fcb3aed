"""Versions: of two that differ between ranks, one is wrong."""

from __future__ import annotations

import contextlib
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trainer import __version__
from trainer.doctor.check import Check, Diagnosis, Finding, RankReading, Station, hosts_of, name, odd_ones

PACKAGES = ("deepspeed", "numpy", "ray", "safetensors", "tokenizers", "transformers", "wandb")
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
    if station.mesh.device.type == "cuda":
        found["cuda"] = torch.version.cuda
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        with contextlib.suppress(OSError):
            found["driver"] = DRIVER.read_text(encoding="utf-8").splitlines()[0]
    return found


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """One line of what all have, a finding for each that some have otherwise; kernels may differ."""
    diagnosis, common = Diagnosis(), []
    for key in sorted({key for reading in readings for key in reading.values}):
        odd, usual = odd_ones(readings, lambda reading, key=key: reading.values.get(key))  # type: ignore[misc]
        if odd and key != "kernel":
            other = odd[0].values.get(key) or "none"
            text = f"{key} {other} on {name(odd)}, {usual or 'none'} on the others: use one environment on all nodes"
            diagnosis.findings.append(Finding(text, hosts_of(odd)))
        elif key not in ("executable",):
            common.append(f"{key} {usual}")
    diagnosis.measured.append(", ".join(common))
    return diagnosis


CHECK = Check("software", measure, judge)
