"""What train.precision means at a ZeRO stage."""

from __future__ import annotations

from trainer.config import Pretrain


def has_bf16_weights(config: Pretrain) -> bool:
    """Whether working weights are in bf16, beside fp32 ones for the optimiser: DeepSpeed's way at stages 1 to 3."""
    return config.train.in_bf16 and config.parallel.zero_stage > 0


def autocasts(config: Pretrain) -> bool:
    """Whether weights are fp32, and autocast multiplies bf16 copies of them.

    So it is at stage 0, where DeepSpeed's own bf16 is wrong: it takes a step as the engine is made.
    """
    return config.train.in_bf16 and config.parallel.zero_stage == 0
