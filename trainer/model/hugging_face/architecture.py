"""Our model as Hugging Face describes it: config.json ↔ trainer.config.Model, and the tensors that hold a parameter.

Parameters have Hugging Face's names, so weights are copied as they are; only experts, which are stacked here, lie in a
tensor each on disk. Nothing heavy is imported: neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import Model
from trainer.config.rope import most_positions, settle_scaling
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face.config_fields import (
    HEAD_WIDTHS,
    KEY_VALUE_HEADS,
    SIZES,
    Fields,
    attention_window,
    check_fields,
    check_head_sizes,
    experts_of,
    rope_positions,
)
from trainer.model.hugging_face.config_json import brief
from trainer.model.sizes import head_width

# Fields of Model without effect in a dense one
EXPERT_SIZES = ("num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob")
# Fields of Model that say where rows' positions are, with which weights can be trained on (model.extend_context)
POSITIONS = ("rope_theta", "rope_scaling")
# Fields of Model that say which function the weights compute; what the others say is the run's choice.
ARCHITECTURE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    *POSITIONS,
    "rms_norm_eps",
    "tie_word_embeddings",
    "qk_norm",
    "qkv_bias",
    "num_experts",
    *EXPERT_SIZES,
)
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
EXPERTS = re.compile(r"(.*\.experts)\.(gate_up|down)_proj")


# ---------------------------------------------------------------------------------------------------------- config.json


def read_architecture(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The fields of Model that a config.json decides. InputError names the first field that our decoder can't honour.

    What a file leaves out has the default that transformers gives it.
    """
    fields = _fields(config, source)
    check_fields(fields)
    kind, heads = fields.kind, fields.size("num_attention_heads")
    default = heads if "num_key_value_heads" in config else KEY_VALUE_HEADS[kind] or heads
    kv_heads = fields.size_or("num_key_value_heads", None) or default
    head_dim = fields.size_or("head_dim", HEAD_WIDTHS.get(kind))
    architecture = {
        **{name: fields.size(name) for name in SIZES},
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        **rope_positions(fields),
        "rms_norm_eps": fields.number("rms_norm_eps", 1e-6),
        "tie_word_embeddings": fields.flag("tie_word_embeddings"),
        "qk_norm": kind in ("qwen3", "qwen3_moe"),
        "qkv_bias": kind == "qwen2",
        "num_experts": 0,
    }
    check_head_sizes(fields, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    attention_window(fields)
    return architecture | (experts_of(fields) if kind == "qwen3_moe" else {})


def read_window(config: Mapping[str, Any], source: Path) -> int | None:
    """Tokens of the longest row for which our decoder, which has no windows, computes the same; None: of any."""
    return attention_window(_fields(config, source))


def write_architecture(model: Model, *, context_length: int, end_of_text: int, dtype: str) -> dict[str, Any]:
    """config.json for a model of ours: Llama, or what of Qwen's has its norms, biases or experts.

    Documents begin after an end-of-text token here, so that is the beginning of text as well.
    """
    kind, scaling = _kind_of(model), settle_scaling(model.rope_scaling)
    config = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": head_width(model),
        "hidden_act": "silu",
        "max_position_embeddings": most_positions(scaling) or context_length,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,  # read by transformers before 5
        "rope_parameters": {"rope_type": "default", **scaling, "rope_theta": model.rope_theta},
        "tie_word_embeddings": model.tie_word_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
    }
    if scaling:
        config["rope_scaling"] = scaling  # read by transformers before 5
    if kind == "llama":
        config["mlp_bias"] = False
    if kind == "qwen3_moe":
        config |= {
            "num_experts": model.num_experts,
            "num_experts_per_tok": model.num_experts_per_tok,
            "moe_intermediate_size": model.moe_intermediate_size,
            "norm_topk_prob": model.norm_topk_prob,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    return config


def first_difference(model: Model, architecture: Mapping[str, Any]) -> str | None:
    """The first field in which a model isn't of the architecture, or None. Fields without effect don't count.

    Nor do positions where they are to be others.
    """
    sizes = ("intermediate_size",) if model.num_experts else EXPERT_SIZES
    idle = (*sizes, *(POSITIONS if model.extend_context else ()))
    for name in ARCHITECTURE:
        if name in architecture and name not in idle and _value(vars(model), name) != _value(architecture, name):
            return name
    return None


def _value(fields: Mapping[str, Any], name: str) -> Any:
    if name == "head_dim":
        return fields[name] or fields["hidden_size"] // fields["num_attention_heads"]
    if name == "rope_scaling":
        return settle_scaling(fields[name])
    return fields[name]


def _kind_of(model: Model) -> str:
    if model.qkv_bias and (model.qk_norm or model.num_experts):
        other = "qk_norm" if model.qk_norm else f"num_experts={model.num_experts}"
        raise ConfigError(
            f"model.qkv_bias with model.{other}: no architecture of Hugging Face's has both, so format=hf can't."
        )
    if model.num_experts and not model.qk_norm:
        raise ConfigError(
            f"model.num_experts={model.num_experts} without model.qk_norm: Hugging Face's Qwen3Moe always has those "
            "norms, so format=hf can't; train with model.qk_norm=true."
        )
    if model.num_experts:
        return "qwen3_moe"
    return "qwen3" if model.qk_norm else "qwen2" if model.qkv_bias else "llama"


def _fields(config: Mapping[str, Any], source: Path) -> Fields:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CLASSES:
        raise InputError(f"{source}: model_type={brief(kind)} is not supported; {', '.join(CLASSES)} are.")
    return Fields(config, source, kind)


# -------------------------------------------------------------------------------------------------------------- tensors


def stored_tensors(parameter: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of the tensors on disk whose elements, end to end, are those of a parameter of ours.

    (experts, 2 · width, inputs) of gate_up_proj is gate_proj of expert 0, its up_proj, gate_proj of expert 1, …
    """
    stack = EXPERTS.fullmatch(parameter)
    if stack is None:
        return [(parameter, shape)]
    prefix, module = stack.groups()
    names = ("gate_proj", "up_proj") if module == "gate_up" else ("down_proj",)
    each = (shape[1] // len(names), shape[2])
    return [(f"{prefix}.{expert}.{name}.weight", each) for expert in range(shape[0]) for name in names]


def is_spare(tensor: str) -> bool:
    """Whether a tensor on disk holds nothing that the model needs: rotary tables of old files."""
    return tensor.endswith("rotary_emb.inv_freq")
