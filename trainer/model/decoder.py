"""The model: a decoder of the Llama family in plain PyTorch. It knows nothing of ranks, ZeRO or configuration files.

RMSNorm, rotary positions, grouped-query attention, SwiGLU; optionally Qwen3's norm on queries and keys, Qwen2's biases
on them and on values, and experts. Parameters are named as in Hugging Face's LlamaForCausalLM, with experts as in its
Qwen3MoeForCausalLM, so that export is a copy. Any weights the constructor leaves are meaningless: they come from
initialize.py or a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from trainer.config import Model
from trainer.config.rope import settle_scaling
from trainer.model.attention import (
    JoinedCache,
    JoinedLayer,
    KeyValueCache,
    LayerCache,
    apply_rotary,
    attend,
    causal_mask,
    document_block_mask,
    document_mask,
    document_positions,
)
from trainer.model.head_products import MakeProducts, PlainProducts
from trainer.model.loss import FromLogits, Measure, logit_losses, row_losses, token_values
from trainer.model.moe import MixtureOfExperts, Routing, Tally, penalties
from trainer.model.recompute import recomputed
from trainer.model.rotary import Rotary, rotary_tables
from trainer.model.sizes import chunk_tokens, head_width


class RMSNorm(nn.Module):
    """x / rms(x) · weight (Zhang and Sennrich 2019); the division in fp32, whatever the weights are."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, size) → the same."""
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight.to(hidden.dtype) * wide.to(hidden.dtype)


# What attends to queries, keys and values of whole rows, as `mix_values` does
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
# Calls a Mix on queries, keys and values that are a part of each row, and returns its result for that part
Exchange = Callable[[Mix, Tensor, Tensor, Tensor], Tensor]


def whole_rows(mix: Mix, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The exchange where rows aren't spread: none."""
    return mix(queries, keys, values)


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions.

    Heads are counted from the projections' outputs, not from the configuration: tensor parallelism makes them local.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.head_dim = head_width(config)
        self.exchange: Exchange = whole_rows
        self.merges = False
        self.dropout = config.dropout
        query_size = config.num_attention_heads * self.head_dim
        key_size = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, hidden: Tensor, rotary: Rotary, mask: Tensor | BlockMask | None, cache: LayerCache | JoinedLayer | None
    ) -> Tensor:
        """(batch, time, hidden_size) → the same."""
        batch, time, _ = hidden.shape
        heads = (batch, time, -1, self.head_dim)
        queries, keys, values = apply_all((self.q_proj, self.k_proj, self.v_proj), hidden, merged=self.merges)
        queries, keys = self.q_norm(queries.view(heads)), self.k_norm(keys.view(heads))
        values = values.view(heads)
        mix = partial(mix_values, rotary=rotary, mask=mask, cache=cache)
        mixed = self.exchange(mix, queries, keys, values).reshape(batch, time, -1)
        return F.dropout(self.o_proj(mixed), self.dropout, self.training)


def mix_values(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    rotary: Rotary,
    mask: Tensor | BlockMask | None,
    cache: LayerCache | JoinedLayer | None,
) -> Tensor:
    """Attention over whole rows: (batch, time, heads, head_dim), with kv_heads for keys and values → like queries."""
    queries, keys, values = queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    queries, keys = apply_rotary(queries, rotary), apply_rotary(keys, rotary)
    mixed = attend(queries, keys, values, mask) if cache is None else cache.attend(queries, keys, values, mask)
    return mixed.transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.merges = False
        self.dropout = config.dropout
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, time, hidden_size) → the same."""
        gate, up = apply_all((self.gate_proj, self.up_proj), hidden, merged=self.merges)
        return F.dropout(self.down_proj(F.silu(gate) * up), self.dropout, self.training)


def apply_all(layers: Sequence[Any], hidden: Tensor, *, merged: bool) -> Sequence[Tensor]:
    """What each of several linear layers makes of `hidden`; `merged`: in one product by their weights together.

    A wide product keeps a GPU busier than narrow ones, and reads its input once. The weights are put together on the
    way, which is free where autocast copies them anyway and that is compiled; parameters stay as they are.
    """
    if not merged:
        return [layer(hidden) for layer in layers]
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers if layer.bias is not None]
    together = F.linear(hidden, torch.cat(weights), torch.cat(biases) if biases else None)
    return together.split([len(weight) for weight in weights], dim=-1)


class DecoderBlock(nn.Module):
    """A decoder block: attention and feed-forward or experts, each normed before and added to the residual stream."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.mlp = MixtureOfExperts(config) if config.num_experts > 0 else FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        rotary: Rotary,
        mask: Tensor | BlockMask | None = None,
        cache: LayerCache | JoinedLayer | None = None,
    ) -> tuple[Tensor, Routing | None]:
        """(batch, time, hidden_size) → the same, and how experts were chosen, if there are any and it is training."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, mask, cache)
        normed = self.post_attention_layernorm(hidden)
        change, routing = self.mlp(normed) if isinstance(self.mlp, MixtureOfExperts) else (self.mlp(normed), None)
        return hidden + change, routing


class Decoder(nn.Module):
    """Tokens to final hidden states: embedding, blocks, norm."""

    def __init__(self, config: Model, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.rope_scaling = settle_scaling(config.rope_scaling)
        self.activation_checkpointing = "none"
        self.shards = 1  # parts that each row is spread over; tokens are one of them
        # nn.Embedding itself would draw weights: on the meta device that imports torch's compiler, which takes seconds.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(vocab_size, config.hidden_size), freeze=False)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, tokens: Tensor, document_ids: Tensor | None, cache: KeyValueCache | JoinedCache | None
    ) -> tuple[Tensor, list[Routing]]:
        """(batch, time) → (batch, time, hidden_size), and the routings of blocks with experts.

        document_ids are of whole rows.
        """
        if cache is not None:
            positions = cache.positions(tokens.shape[1], tokens.device)
        else:
            positions = _positions(tokens.shape[1] * self.shards, tokens.device, document_ids)
        rotary = rotary_tables(positions, head_width(self.config), self.config.rope_theta, self.rope_scaling)
        mask = _mask(tokens, document_ids, past=cache.length if cache is not None else 0)
        hidden = F.dropout(_in_autocast_dtype(self.embed_tokens(tokens)), self.config.dropout, self.training)
        routings = []
        for index, block in enumerate(self.layers):
            layer_cache = cache.layers[index] if cache is not None else None
            hidden, routing = self._through(block, hidden, rotary, mask, layer_cache)
            if routing is not None:
                routings.append(routing)
        return self.norm(hidden), routings

    def _through(self, block: nn.Module, hidden: Tensor, *rest: object) -> tuple[Tensor, Routing | None]:
        if self.activation_checkpointing == "none" or not torch.is_grad_enabled():
            return block(hidden, *rest)
        return recomputed(
            block,
            hidden,
            *rest,
            selective=self.activation_checkpointing == "selective",
            has_dropout=self.training and self.config.dropout > 0,
        )


class Transformer(nn.Module):
    """The language model: decoder, head and loss. With experts, `tally` counts how training routes to them."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("model.vocab_size is not set: take the tokenizer's.")
        self.config = config
        self.model = Decoder(config, config.vocab_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tally = Tally() if config.num_experts > 0 else None
        self.measure: Measure = logit_losses
        self.products: MakeProducts = PlainProducts  # of the head, in training
        self.least_tokens = 0  # of another rank's batch, where all must call the head as often
        self._tie()

    @property
    def has_dropout(self) -> bool:
        """Whether training draws random numbers."""
        return self.config.dropout > 0

    def new_cache(self, capacity: int) -> KeyValueCache:
        """A cache for generation, of up to `capacity` tokens."""
        return KeyValueCache(self.config.num_hidden_layers, capacity)

    def join_caches(self, rows: list[KeyValueCache]) -> JoinedCache:
        """The caches of several rows as one, for a step with a token of each."""
        return JoinedCache(rows)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, first to last."""
        return self.model.layers

    def set_activation_checkpointing(self, mode: str) -> None:
        """`full` computes blocks again in backward, `selective` their cheap parts; `none` keeps what backward needs."""
        if mode not in ("none", "full", "selective"):
            raise ValueError(f"activation checkpointing {mode!r}: none, full or selective.")
        self.model.activation_checkpointing = mode

    def spread_sequence(self, exchange: Exchange, shards: int) -> None:
        """Makes the model take one of `shards` equal parts of each row, and `exchange` join them for attention.

        Tokens and targets are then that part; document_ids stay those of whole rows. Losses are the part's.
        """
        self.model.shards = shards
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.exchange = exchange

    def merge_products(self) -> None:
        """Makes each block multiply by the matrices of queries, keys and values at once, and of gate and up."""
        for module in self.modules():
            if isinstance(module, SelfAttention | FeedForward):
                module.merges = True

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KeyValueCache | JoinedCache | None = None,
        from_logits: FromLogits | None = None,
    ) -> Tensor:
        """Each row's summed loss where there are targets, else logits; fp32 both. Or what `from_logits` makes.

        tokens, targets, document_ids: (batch, time) int64. Losses: (batch,), in nats; IGNORED targets add nothing; the
        z-loss and the experts' penalties are in it while training. Logits: (batch, time, vocab_size), or with a cache,
        which is extended by `tokens`, of the last position alone: (batch, 1, vocab_size). `document_ids`, equal within
        a document and each document in one piece, keep attention inside documents and restart positions; they don't go
        with a cache. What `from_logits` makes of every token is (batch, time, …), without z-loss and penalties.
        """
        if cache is not None and document_ids is not None:
            raise ValueError("A cache holds one document: give no document_ids with it.")
        hidden, routings = self.model(tokens, document_ids, cache)
        chunk = chunk_tokens(self.config.loss_chunk, self.config.vocab_size or 0, cuda=hidden.is_cuda)
        if from_logits is not None:
            return token_values(hidden, self.lm_head, from_logits, chunk=chunk)
        if targets is not None:
            z_loss = self.config.z_loss if self.training else 0.0
            losses = row_losses(
                hidden,
                targets,
                self.lm_head,
                chunk=chunk,
                z_loss=z_loss,
                measure=self.measure,
                products=self.products,
                least_tokens=self.least_tokens,
            )
            return losses + self._penalties(routings, targets) if routings else losses
        if cache is not None:
            hidden = hidden[:, -1:]
        return self.lm_head(hidden).float()

    def _penalties(self, routings: list[Routing], targets: Tensor) -> Tensor:
        assert self.tally is not None
        self.tally.add(routings, targets)
        return penalties(routings, targets, self.config)

    def _tie(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def _apply(self, fn: Callable, recurse: bool = True) -> Transformer:
        """What .to(), .to_empty() and the like call: they may replace parameters, each module's by itself."""
        super()._apply(fn, recurse)
        self._tie()
        return self


def _in_autocast_dtype(hidden: Tensor) -> Tensor:
    """What enters the residual stream, which autocast would leave in fp32: twice the memory to pass over."""
    kind = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden


def _positions(time: int, device: torch.device, document_ids: Tensor | None) -> Tensor:
    """Positions in whole rows: (1, time), or with documents (batch, time)."""
    if document_ids is not None:
        return document_positions(document_ids)
    return torch.arange(time, device=device)[None]


def _mask(tokens: Tensor, document_ids: Tensor | None, past: int) -> Tensor | BlockMask | None:
    """The mask that `attend` needs; None where plain causal attention (or one query that sees all) will do."""
    if document_ids is not None:
        return document_block_mask(document_ids) if tokens.is_cuda else document_mask(document_ids)
    if past > 0 and tokens.shape[1] > 1:
        return causal_mask(past, tokens.shape[1], tokens.device)
    return None
