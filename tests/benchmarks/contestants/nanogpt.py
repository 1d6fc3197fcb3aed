"""nanoGPT's model and way of training, written anew in its manner: GPT-2 blocks (LayerNorm, GELU, learned positions,
full attention by SDPA, no biases), the whole model compiled, autocast, fused AdamW, all logits at once.

Its feed-forward is as wide as gives a layer as many parameters as the case's own has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.case import Case
from tests.benchmarks.contestants.bare import train_in_turns
from tests.benchmarks.contestants.stage import Stage


class LayerNorm(nn.Module):
    """LayerNorm without a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) → the same."""
        return F.layer_norm(hidden, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    """Attention and feed-forward, each normed before."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        width, self.heads = case.hidden_size, case.num_attention_heads
        key_width = case.num_key_value_heads * case.head_dim
        layer = 2 * width * (width + key_width) + 3 * width * case.intermediate_size
        inner = max(width, (layer - 4 * width * width) // (2 * width) // 64 * 64)
        self.ln_1, self.ln_2 = LayerNorm(width), LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.c_fc = nn.Linear(width, inner, bias=False)
        self.c_out = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, time, width) → the same."""
        batch, time, width = hidden.shape
        heads = (batch, time, self.heads, width // self.heads)
        query, key, value = (
            part.view(heads).transpose(1, 2) for part in self.c_attn(self.ln_1(hidden)).split(width, 2)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.c_proj(mixed.transpose(1, 2).reshape(batch, time, width))
        return hidden + self.c_out(F.gelu(self.c_fc(self.ln_2(hidden))))


class GPT(nn.Module):
    """Embeddings, blocks, norm, a tied head, the mean loss."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.wte = nn.Embedding(case.vocab_size, case.hidden_size)
        self.wpe = nn.Embedding(case.sequence_length, case.hidden_size)
        self.h = nn.ModuleList(Block(case) for _ in range(case.num_hidden_layers))
        self.ln_f = LayerNorm(case.hidden_size)
        self.lm_head = nn.Linear(case.hidden_size, case.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """(batch, time) of each → 0-d."""
        hidden = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            hidden = block(hidden)
        logits = self.lm_head(self.ln_f(hidden))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def main() -> None:
    """Trains in turns."""
    stage = Stage.from_arguments()
    case = stage.case
    torch.manual_seed(0)
    with torch.device(case.device):
        model = GPT(case)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    train_in_turns(stage, model, torch.compile(model) if case.compile else model)


if __name__ == "__main__":
    main()
