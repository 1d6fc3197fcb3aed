"""The floor: a step's matrix products alone, in the model's own shapes, forward and backward; nothing else is done.

What a step takes beyond these is norms, softmax, activations, the optimiser, and overhead. A step can be faster than
the floor only where attention leaves out the future, which the floor computes like everything else.
"""

from __future__ import annotations

import torch

from tests.benchmarks.case import Case
from tests.benchmarks.contestants.stage import Stage
from tests.benchmarks.turns import Turns

Product = tuple[torch.Tensor, torch.Tensor]


def shapes(case: Case) -> list[tuple[int, int, int, int]]:
    """(batch, m, k, n) of each product of a forward pass on one rank."""
    tokens, width, heads = case.rows * case.sequence_length, case.hidden_size, case.num_attention_heads
    key_width = case.num_key_value_heads * case.head_dim
    attention = case.rows * heads
    layer = [
        (1, tokens, width, heads * case.head_dim),
        (1, tokens, width, key_width),
        (1, tokens, width, key_width),
        (attention, case.sequence_length, case.head_dim, case.sequence_length),
        (attention, case.sequence_length, case.sequence_length, case.head_dim),
        (1, tokens, heads * case.head_dim, width),
        (1, tokens, width, case.intermediate_size),
        (1, tokens, width, case.intermediate_size),
        (1, tokens, case.intermediate_size, width),
    ]
    return layer * case.num_hidden_layers + [(1, tokens, width, case.vocab_size)]


def flops(case: Case) -> float:
    """FLOPs of a step's matrix products on all ranks: 2·m·k·n each, once forward and twice backward."""
    return 3.0 * case.ranks * sum(2.0 * b * m * k * n for b, m, k, n in shapes(case))


def operands(case: Case) -> list[Product]:
    """What is multiplied in a step: of every forward product a·b also dc·bᵀ and aᵀ·dc. Equal shapes share memory."""
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    held: dict[tuple[int, int, int], torch.Tensor] = {}

    def tensor(*shape: int) -> torch.Tensor:
        if shape not in held:
            held[shape] = torch.randn(shape, dtype=dtype, device=case.device)
        return held[shape]

    products = []
    for batch, m, k, n in shapes(case):
        a, b, dc = tensor(batch, m, k), tensor(batch, k, n), tensor(batch, m, n)
        products += [(a, b), (dc, b.mT), (a.mT, dc)]
    return products


def main() -> None:
    """Multiplies in turns."""
    case = Stage.from_arguments().case
    products = [(a[0], b[0]) if a.shape[0] == 1 else (a, b) for a, b in operands(case)]
    turns = Turns(case.warmup)
    while True:
        turns.between()
        for a, b in products:
            torch.matmul(a, b)


if __name__ == "__main__":
    main()
