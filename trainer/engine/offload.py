"""Offload: optimiser state and weights that live in host memory, or on a local NVMe drive, between uses."""

from __future__ import annotations

from typing import Any

from trainer.config import Pretrain
from trainer.engine.mesh import Mesh


def offload_settings(config: Pretrain, mesh: Mesh) -> dict[str, Any]:
    """The part of DeepSpeed's zero_optimization that says what leaves the device and where it goes."""
    parallel = config.parallel
    if parallel.offload == "none":
        return {}
    place = {"device": parallel.offload_device, "pin_memory": mesh.device.type == "cuda"}
    settings: dict[str, Any] = {"offload_optimizer": place}
    if parallel.offload == "all":
        settings["offload_param"] = place
    return settings
