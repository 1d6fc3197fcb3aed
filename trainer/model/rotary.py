"""Rotary positions (RoFormer, eq. 15), plain or stretched for rows longer than those that a model was trained on.

Frequencies are those of transformers' ROPE_INIT_FUNCTIONS to the last bit: the same operations, in its order, in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config.rope import ORIGINAL

Rotary = tuple[Tensor, Tensor]
NO_SCALING: Mapping[str, Any] = {}


def rotary_tables(positions: Tensor, head_dim: int, theta: float, scaling: Mapping[str, Any] = NO_SCALING) -> Rotary:
    """Cosines and sines of the rotary angles, in fp32.

    Angle i of position m is m times frequency i, for i < head_dim / 2; the two halves repeat it (Llama in Hugging
    Face's layout). `scaling` is a settled one (trainer/config/rope.py). positions: (rows, time), rows 1 or batch → two
    of (rows, 1, time, head_dim).
    """
    frequencies, attention_factor = rotary_frequencies(head_dim, theta, scaling, positions.device)
    angles = positions[:, None, :, None].float() * frequencies  # (rows, 1, time, head_dim / 2)
    angles = torch.cat((angles, angles), dim=-1)
    if attention_factor == 1.0:
        return angles.cos(), angles.sin()
    return angles.cos() * attention_factor, angles.sin() * attention_factor


def rotary_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any], device: torch.device
) -> tuple[Tensor, float]:
    """Angle by position of each pair, (head_dim / 2,) fp32, and what cosines and sines are multiplied by."""
    powers = theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    match scaling.get("rope_type"):
        case "linear":  # Chen et al., "Extending Context Window … via Positional Interpolation", 2023
            return (1.0 / powers) / scaling["factor"], 1.0
        case "yarn":
            return _yarn(powers, head_dim, theta, scaling), yarn_attention_factor(scaling)
        case "llama3":
            return _llama3(1.0 / powers, scaling), 1.0
    return 1.0 / powers, 1.0


def _yarn(powers: Tensor, head_dim: int, theta: float, scaling: Mapping[str, Any]) -> Tensor:
    """NTK by parts (Peng et al., "YaRN", 2023): pairs of many turns stay, of few are stretched, others in between."""

    def pair_of(turns: float) -> float:
        """The pair, as a fraction, that makes so many turns over the positions of the training."""
        return (head_dim * math.log(scaling[ORIGINAL] / (turns * 2 * math.pi))) / (2 * math.log(theta))

    low, high = pair_of(scaling.get("beta_fast", 32)), pair_of(scaling.get("beta_slow", 1))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = torch.arange(head_dim // 2, dtype=torch.float32, device=powers.device)
    stays = 1 - torch.clamp((ramp - low) / (high - low), 0, 1)
    return 1.0 / (scaling["factor"] * powers) * (1 - stays) + 1.0 / powers * stays


def yarn_attention_factor(scaling: Mapping[str, Any]) -> float:
    """Its temperature, as a factor of queries and keys: 0.1 ln(factor) + 1 (YaRN, eq. 22), unless it is given."""
    if "attention_factor" in scaling:
        return float(scaling["attention_factor"])

    def of(scale: float, weight: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    if "mscale" in scaling and "mscale_all_dim" in scaling:
        return of(scaling["factor"], scaling["mscale"]) / of(scaling["factor"], scaling["mscale_all_dim"])
    return of(scaling["factor"])


def _llama3(frequencies: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Llama 3.1's: long waves are stretched, short ones left, and those in between by how long they are."""
    factor, trained = scaling["factor"], scaling[ORIGINAL]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = 2 * math.pi / frequencies
    stretched = torch.where(waves > trained / low, frequencies / factor, frequencies)
    smooth = (trained / waves - low) / (high - low)
    between = (1 - smooth) * stretched / factor + smooth * stretched
    is_between = ~(waves < trained / high) * ~(waves > trained / low)
    return torch.where(is_between, between, stretched)
