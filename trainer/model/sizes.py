"""Shapes of all parameters from the configuration alone, without building a model."""

from __future__ import annotations

import math

from trainer.config import Model

Shapes = dict[str, tuple[int, ...]]

# Keys of `model` that shape an LSTM (lstm.py)
LSTM_KEYS = ("vocab_size", "hidden_size", "num_hidden_layers", "tie_word_embeddings", "initializer_range", "dropout")


def decoder_shapes(model: Model) -> Shapes:
    """Shape of every parameter of the whole model, by name, in the order of the model's own."""
    if model.vocab_size is None:
        raise ValueError("model.vocab_size is not set: take the tokenizer's.")
    shapes: Shapes = {"model.embed_tokens.weight": (model.vocab_size, model.hidden_size)}
    for layer in range(model.num_hidden_layers):
        block = _attention(model) | _feed_forward(model)
        block |= {f"{norm}_layernorm.weight": (model.hidden_size,) for norm in ("input", "post_attention")}
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    shapes["model.norm.weight"] = (model.hidden_size,)
    if not model.tie_word_embeddings:
        shapes["lm_head.weight"] = (model.vocab_size, model.hidden_size)
    return shapes


def count(shapes: Shapes) -> int:
    """Number of parameters of these shapes."""
    return sum(map(math.prod, shapes.values()))


def active_share(name: str, model: Model) -> float:
    """The share of a parameter that a token goes through."""
    return model.num_experts_per_tok / model.num_experts if ".experts." in name else 1.0


def count_active(shapes: Shapes, model: Model) -> int:
    """Parameters that a token goes through: fewer than all where experts are chosen."""
    return round(sum(math.prod(shape) * active_share(name, model) for name, shape in shapes.items()))


CHUNK, LARGEST_CHUNK = 2_048, 8_192  # tokens
MOST_LOGITS = 2**29  # numbers of a chunk on a GPU, some 7 GB with what becomes of them


def chunk_tokens(chosen: int, vocab_size: int, *, cuda: bool) -> int:
    """Tokens whose logits the loss holds at once: model.loss_chunk, or where that is 0 what suits the device.

    Each chunk adds to the head's whole gradient. On a GPU that costs 0.4 of the product itself with 2,048 tokens, 0.1
    with 8,192; on a CPU nothing that shows, and its caches are smaller.
    """
    if chosen:
        return chosen
    chunk = LARGEST_CHUNK if cuda else CHUNK
    while chunk > CHUNK and chunk * vocab_size > MOST_LOGITS:
        chunk //= 2
    return chunk


def head_width(model: Model) -> int:
    """Width of an attention head."""
    return model.head_dim or model.hidden_size // model.num_attention_heads


def _attention(model: Model) -> Shapes:
    width = head_width(model)
    queries, keys = model.num_attention_heads * width, model.num_key_value_heads * width
    shapes: Shapes = {}
    for name, size in (("q", queries), ("k", keys), ("v", keys)):
        shapes[f"self_attn.{name}_proj.weight"] = (size, model.hidden_size)
        if model.qkv_bias:
            shapes[f"self_attn.{name}_proj.bias"] = (size,)
    shapes["self_attn.o_proj.weight"] = (model.hidden_size, queries)
    if model.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
    return shapes


def _feed_forward(model: Model) -> Shapes:
    hidden, experts, inner = model.hidden_size, model.num_experts, model.moe_intermediate_size
    if experts:
        return {
            "mlp.gate.weight": (experts, hidden),
            "mlp.experts.gate_up_proj": (experts, 2 * inner, hidden),
            "mlp.experts.down_proj": (experts, hidden, inner),
        }
    return {
        "mlp.gate_proj.weight": (model.intermediate_size, hidden),
        "mlp.up_proj.weight": (model.intermediate_size, hidden),
        "mlp.down_proj.weight": (hidden, model.intermediate_size),
    }


# The matrices inside decoder blocks, which Muon is meant for; experts are stacked in one parameter per layer.
HIDDEN_MATRICES = (
    *(f".{module}_proj.weight" for module in ("q", "k", "v", "o", "gate", "up", "down")),
    ".experts.gate_up_proj",
    ".experts.down_proj",
)


def is_hidden_matrix(name: str) -> bool:
    """Whether the parameter is one that Muon may orthogonalize: no embedding, head, norm, bias or router."""
    return name.endswith(HIDDEN_MATRICES)
