"""Small random Hugging Face models, saved to folders as users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "norm_topk_prob": True}
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "llama tied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True, "rms_norm_eps": 1e-4}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, EXPERTS),
}


BARE = {key: value for key, value in SIZES.items() if key != "head_dim"}
# Architectures that our own decoder isn't, one for each way in which they differ
OTHERS: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen3": SIZES | {"tie_word_embeddings": True},
    "gpt2": {
        "vocab_size": 300,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
    },  # Conv1D
    "gpt_neox": BARE | {"rotary_pct": 0.5},  # parallel residual, queries, keys and values in one
    "gemma2": SIZES | {"final_logit_softcapping": 2.0, "sliding_window": 8},  # logits aren't the head's outputs
    "granite": BARE | {"logits_scaling": 3.0},
    "phi": BARE | {"num_key_value_heads": 4},  # a head with a bias
    "phi3": BARE | {"pad_token_id": 0},
    "opt": {"vocab_size": 300, "hidden_size": 48, "word_embed_proj_dim": 48, "ffn_dim": 96, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "max_position_embeddings": 64},
    "bloom": {"vocab_size": 300, "hidden_size": 48, "n_layer": 2, "n_head": 4},  # no positions
    "mamba": {"vocab_size": 300, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 8},  # no attention
    "mixtral": BARE | {"num_local_experts": 4},  # experts, one by one on disk
}


def save_other(folder: Path, kind: str, **changes: Any) -> PreTrainedModel:
    """A model of any architecture, far from its initial state and without dropout, saved to `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.for_model(kind, **OTHERS[kind] | {"bos_token_id": 0, "eos_token_id": 0} | changes)
    for key, value in settings.to_dict().items():
        if "drop" in key and isinstance(value, float) and key not in changes:
            setattr(settings, key, 0.0)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return model


def make_model(kind: str, **changes: Any) -> PreTrainedModel:
    """A model far from its initial state, in evaluation mode."""
    settings, model_class, own = KINDS[kind]
    torch.manual_seed(3)
    model = model_class(settings(**{**SIZES, **own, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


def save_model(folder: Path, kind: str, *, shard: str = "1GB", **changes: Any) -> PreTrainedModel:
    """Such a model, saved to `folder` in files of at most `shard`."""
    model = make_model(kind, **changes)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def load_model(folder: Path) -> PreTrainedModel:
    """What transformers makes of a folder, in fp32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def some_tokens(batch: int = 2, time: int = 40) -> torch.Tensor:
    """(batch, time) tokens of the small vocabulary."""
    return torch.randint(SIZES["vocab_size"], (batch, time), generator=torch.Generator().manual_seed(5))
