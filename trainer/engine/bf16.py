"""Whether a device multiplies bf16 in hardware."""

from __future__ import annotations

import torch

CPU_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")  # as torch.cpu.get_capabilities calls them; the last is ARM's


def multiplies_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are faster than in fp32 there, instead of emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in CPU_FEATURES)
