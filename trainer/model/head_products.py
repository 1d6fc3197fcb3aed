"""The products of the head that a plain matrix is: as they are, or in float8 (train.fp8_head).

The head's own gradient isn't among them: it is a sum over chunks of tokens in fp32, to which no float8 product adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
PER_TENSOR = F.ScalingType.TensorWise
LEAST = 1e-12
"""Of a largest magnitude: a chunk of which no target counts has a gradient of zeros."""

# A tensor and a float8 format → its numbers in that, and the fp32 scale by which they were divided
Quantize = Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor]]


class HeadProducts(Protocol):
    """What the loss multiplies by the head's matrix, (vocab_size, hidden_size)."""

    def logits(self, states: Tensor) -> Tensor:
        """(tokens, hidden_size) → (tokens, vocab_size), in the states' dtype."""
        ...

    def grad_hidden(self, grad_logits: Tensor, room: Tensor) -> None:
        """(tokens, vocab_size) → (tokens, hidden_size), into `room`."""
        ...


# The head's weight and the dtype of the states → its products
MakeProducts = Callable[[Tensor, torch.dtype], HeadProducts]


class PlainProducts:
    """Products in the dtype of the states."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._matrix = weight.to(dtype)  # a copy under autocast

    def logits(self, states: Tensor) -> Tensor:
        """(tokens, hidden_size) → (tokens, vocab_size)."""
        return states @ self._matrix.T

    def grad_hidden(self, grad_logits: Tensor, room: Tensor) -> None:
        """(tokens, vocab_size) → (tokens, hidden_size), into `room`."""
        torch.mm(grad_logits, self._matrix, out=room)


class Float8Products:
    """Products of float8 numbers, summed in fp32: states and matrix in e4m3, the logits' gradient in e5m2.

    Each tensor is divided by its largest magnitude over the format's (Micikevicius et al. 2022, arXiv:2209.05433), the
    matrix once for all chunks. Tensor cores want what is summed over to be contiguous in both factors, so there are two
    copies of the matrix, a byte an element each.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype, quantize: Quantize) -> None:
        self._quantize = quantize
        self._dtype = dtype
        self._matrix, self._scale = quantize(weight, FORWARD)
        self._columns = self._matrix.T.contiguous().T

    def logits(self, states: Tensor) -> Tensor:
        """(tokens, hidden_size) → (tokens, vocab_size)."""
        return self._product(states, FORWARD, self._matrix.T, fast=True)

    def grad_hidden(self, grad_logits: Tensor, room: Tensor) -> None:
        """(tokens, vocab_size) → (tokens, hidden_size), into `room`."""
        room.copy_(self._product(grad_logits, BACKWARD, self._columns, fast=False))

    def _product(self, left: Tensor, kind: torch.dtype, right: Tensor, *, fast: bool) -> Tensor:
        """`left`, quantized, times the matrix; `fast` sums in fewer bits on Hopper, as torchao does forward alone."""
        numbers, scale = self._quantize(left, kind)
        return F.scaled_mm(
            numbers,
            right,
            scale,
            PER_TENSOR,
            self._scale,
            PER_TENSOR,
            output_dtype=self._dtype,
            use_fast_accum=fast and left.is_cuda,
        )


def quantize_tensor(tensor: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor in float8, its largest magnitude being the format's, and the scale that brings it back: fp32, 0-d."""
    scale = tensor.abs().amax().float().clamp(min=LEAST) / torch.finfo(kind).max
    return (tensor.float() / scale).to(kind), scale
