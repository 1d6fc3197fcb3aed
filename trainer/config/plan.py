"""What `banyan plan` assumes of the cluster, and what it is to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.knobs import knob


@dataclass
class PlanSettings:
    """The cluster that is planned for."""

    devices: Optional[int] = knob(
        None, "Devices, one for each rank; by default what launch asks for.", common=True, low=1
    )
    device: Optional[str] = knob(
        None, "Device, of the table in docs/PLANNING.md, or cpu; by default launch.device, or h100.", common=True
    )
    per_node: Optional[int] = knob(
        None, "Devices of a node; by default launch.gpus_per_node, or 8.", common=True, low=1
    )
    best: bool = knob(False, "Try layouts and micro-batches, and rank those that fit.", common=True)
    scaling: str = knob(
        "none",
        "Table of 1 node, 2, 4, … up to plan.devices: strong, with the whole batch at each; weak, with its share.",
        choices=("none", "weak", "strong"),
        common=True,
    )
    top: int = knob(5, "How many of them to show.", low=1)
    calibrate: Optional[str] = knob(
        None, "Run directory whose measured speed and memory correct the prediction.", common=True
    )
    tokens: Optional[float] = knob(None, "Tokens to train on; by default those of the run.", "tokens", common=True)
    price: Optional[float] = knob(None, "Price of a device for an hour, in any currency.", common=True)
    output: Optional[str] = knob(None, "JSON file to write the plan to.", common=True)
    memory: Optional[int] = knob(None, "Memory of a device, instead of the table's.", "bytes", low=1)
    flops: Optional[float] = knob(
        None, "Dense peak of a device in the run's precision, instead of the table's; a CPU has none.", "FLOP/s", low=1
    )
    node_link: Optional[float] = knob(None, "Link to the devices of the node, one direction.", "bytes/s", low=1)
    network: Optional[float] = knob(None, "Network of a device to other nodes, one direction.", "bytes/s", low=1)
    watts: Optional[float] = knob(None, "Power of a device under load.", "W")
    matmul_share: Optional[float] = knob(
        None, "Share of the peak that wide matrix products reach, instead of the fitted one.", low=0.01, high=1.0
    )
    attention_share: Optional[float] = knob(
        None, "Share of the peak that attention's kernels reach, instead of the fitted one.", low=0.01, high=1.0
    )
    link_share: Optional[float] = knob(
        None, "Share of a link's speed that collectives reach, instead of the fitted ones.", low=0.01, high=1.0
    )
    latency_s: float = knob(5e-6, "Start of a collective, for each step of its ring or tree.", "seconds")
