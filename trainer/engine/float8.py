"""Products of the decoder blocks in float8 (train.precision=fp8), by torchao; all else is as with bf16.

Weights stay in bf16 and their masters in fp32. Inputs, weights and output gradients are scaled tensor by tensor to the
range of e4m3 and e5m2 before each product (Micikevicius et al., 2022), so nothing of it is state: checkpoints are those
of a bf16 run.
"""

from __future__ import annotations

import torch

from trainer.errors import ConfigError
from trainer.machine.quiet import quiet_torchao
from trainer.model.build import LanguageModel

OLDEST = (8, 9)  # compute capability of the first GPUs with float8 tensor cores: Ada's; Hopper has 9.0


def require_float8(device: torch.device, key: str, instead: str) -> None:
    """ConfigError that names `key` and what to use `instead`, where the device has no float8 tensor cores."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if capability is None or capability < OLDEST:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        raise ConfigError(f"{key}: {name} has no float8 tensor cores, as an H100 has; use {instead}.")


def require_float8_blocks(device: torch.device) -> None:
    """ConfigError where blocks can't have float8 products: on such a device, or without torchao."""
    require_float8(device, "train.precision=fp8", "train.precision=bf16")
    _import()


def _import() -> type:
    with quiet_torchao():
        try:
            from torchao.float8 import Float8LinearConfig
        except ImportError as error:
            raise ConfigError(
                "train.precision=fp8 needs torchao: pip install 'banyan-train[fp8]', or use train.precision=bf16."
            ) from error
    return Float8LinearConfig


def to_float8(model: LanguageModel, *, emulate: bool = False) -> None:
    """Replaces the linear layers of the decoder blocks; their parameters stay the same objects, by the same names.

    `emulate` takes the products in fp32 of what float8 leaves of the numbers, on any device.
    """
    config = _import()
    with quiet_torchao():
        from torchao.float8 import convert_to_float8_training

        convert_to_float8_training(model.blocks, config=config(emulate=emulate))
