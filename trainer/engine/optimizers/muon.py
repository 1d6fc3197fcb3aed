"""optimizer=muon: Muon (Jordan et al., 2024) for the blocks' matrices, AdamW for all else; DeepSpeed's own."""

from __future__ import annotations

from typing import Any

import torch

from trainer.config import Optimizer
from trainer.engine.deepspeed.muon import muon_with_adamw
from trainer.engine.optimizers import adamw


def build(config: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser over parameter groups; a group whose "hidden" is true holds matrices to orthogonalize."""
    settled = []
    for group in groups:
        rest = {key: value for key, value in group.items() if key not in ("hidden", "peak")}
        if group["hidden"]:
            settled.append(rest | settings(config) | {"use_muon": True})
            for parameter in group["params"]:
                parameter.use_muon = True  # by which DeepSpeed's ZeRO finds them
        else:
            settled.append(rest | adamw.settings(config) | {"use_muon": False, "peak": group["peak"]})
    return muon_with_adamw(settled)


def settings(config: Optimizer) -> dict[str, Any]:
    """What the group of matrices needs; it has a learning rate of its own."""
    return {
        "lr": config.muon_lr,
        "peak": config.muon_lr,
        "scale": 1.0,
        "rate_name": "train/muon_lr",
        "momentum": config.muon_momentum,
        "ns_method": config.muon_newton_schulz,
        "weight_decay": config.weight_decay,
    }
