"""bf16 on a rank: whether its device multiplies it, and how products are taken in it where weights are fp32."""

from __future__ import annotations

import torch
from torch import nn

from trainer.machine import host


def device_multiplies_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are faster than in fp32 there, instead of emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return host.multiplies_bf16()


def autocast(module: nn.Module, device: torch.device) -> None:
    """Makes the module's forward multiply bf16 copies of its fp32 weights; their gradients are fp32."""
    forward = module.forward

    def in_bf16(*arguments: object, **options: object) -> object:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*arguments, **options)

    module.forward = in_bf16
