"""Products of few rows on a CPU, by kernels of PyTorch's that read a weight once: in bf16, and in 8 bits.

A token's products wait for the memory. `F.linear` lays a bf16 weight out anew at each of them, and torchao's makes one
in 8 bits wide first: both then cost more than the weights in fp32. In either case a row is computed alike in a batch of
any size up to `TOGETHER`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.build import LanguageModel
from trainer.model.decoder import Transformer

TOGETHER = 8  # rows of a batch on a CPU, where more of them take that much longer
ALIGNED = 16  # bytes: the kernel for 8 bits loads a row from such addresses alone, or crashes


class LaidOutLinear(nn.Module):
    """A linear layer whose bf16 weight oneDNN keeps as its products want it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TOGETHER)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs), bf16 both."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, self._weight, self.bias, "none", [], "")
        return product


class Int8Linear(nn.Module):
    """A linear layer of torchao's Int8Tensor. Of few rows, inputs and sums are rounded to bf16; scales are fp32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        stored: Any = linear.weight
        aligned = stored.qdata.data_ptr() % ALIGNED == 0 and stored.qdata.is_contiguous()
        self._numbers = stored.qdata if aligned else stored.qdata.clone(memory_format=torch.contiguous_format)
        self._scale = stored.scale.float().flatten()
        self._ones = torch.ones_like(self._scale, dtype=torch.bfloat16)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs), fp32 both."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        if len(rows) > TOGETHER:
            return F.linear(hidden, self.weight, self.bias)
        sums = torch._weight_int8pack_mm(rows.bfloat16(), self._numbers, self._ones)
        product = sums.float().mul_(self._scale).view(*hidden.shape[:-1], -1)
        return product if self.bias is None else product + self.bias


@torch.no_grad()
def quicken(model: LanguageModel, precision: str) -> None:
    """Gives our decoder on a CPU the layers above, if its precision has some. It isn't moved or cast afterwards."""
    if not isinstance(model, Transformer) or next(model.parameters()).device.type != "cpu":
        return
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is not nn.Linear:
                continue
            if precision == "bf16" and child.weight.dtype == torch.bfloat16:
                setattr(module, name, LaidOutLinear(child))
            elif precision == "int8" and hasattr(child.weight, "qdata") and child.in_features % ALIGNED == 0:
                setattr(module, name, Int8Linear(child))
