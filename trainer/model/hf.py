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
from trainer.errors import ConfigError, InputError
from trainer.model.sizes import head_width

# Fields of Model without effect in a dense one
EXPERT_SIZES = ("num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob")
# Fields of Model that say which function the weights compute; what the others say is the run's choice.
ARCHITECTURE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
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
# The only values, besides a missing one, that our decoder computes; looked at in this order.
ONLY: dict[str, Any] = {
    "quantization_config": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "rope_scaling": None,
    "use_sliding_window": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
EXPERTS = re.compile(r"(.*\.experts)\.(gate_up|down)_proj")


# ---------------------------------------------------------------------------------------------------------- config.json


def read_architecture(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The fields of Model that a config.json decides. InputError names the first field that our decoder can't honour.

    What a file leaves out has the default that transformers gives it.
    """
    kind = config.get("model_type")
    if kind not in CLASSES:
        raise InputError(f"{source}: model_type={kind} is not supported; {', '.join(CLASSES)} are.")
    rope = _rope(config)
    _refuse_unsupported({**config, **rope}, source)
    heads = _size(config, source, "num_attention_heads")
    fields = {
        "vocab_size": _size(config, source, "vocab_size"),
        "hidden_size": _size(config, source, "hidden_size"),
        "intermediate_size": _size(config, source, "intermediate_size"),
        "num_hidden_layers": _size(config, source, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(config.get("num_key_value_heads") or heads),
        "head_dim": config.get("head_dim") or (128 if kind == "qwen3" else None),
        "rope_theta": float(rope.get("rope_theta") or 10000.0),
        "rms_norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "qk_norm": kind in ("qwen3", "qwen3_moe"),
        "qkv_bias": kind == "qwen2",
        "num_experts": 0,
    }
    if kind == "qwen3_moe":
        count = "num_local_experts" if "num_local_experts" in config else "num_experts"
        fields |= {
            "num_experts": _size(config, source, count),
            "num_experts_per_tok": _size(config, source, "num_experts_per_tok"),
            "moe_intermediate_size": _size(config, source, "moe_intermediate_size"),
            "norm_topk_prob": bool(config.get("norm_topk_prob", False)),
        }
    return fields


def write_architecture(model: Model, *, context_length: int, end_of_text: int, dtype: str) -> dict[str, Any]:
    """config.json for a model of ours: Llama, or what of Qwen's has its norms, biases or experts.

    Documents begin after an end-of-text token here, so that is the beginning of text as well.
    """
    kind = _kind_of(model)
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
        "max_position_embeddings": context_length,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,  # read by transformers before 5
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "tie_word_embeddings": model.tie_word_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
    }
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
    """The first field in which a model isn't of the architecture, or None. Fields without effect don't count."""
    idle = ("intermediate_size",) if model.num_experts else EXPERT_SIZES
    for name in ARCHITECTURE:
        if name in architecture and name not in idle and _value(vars(model), name) != _value(architecture, name):
            return name
    return None


def _value(fields: Mapping[str, Any], name: str) -> Any:
    if name == "head_dim":
        return fields[name] or fields["hidden_size"] // fields["num_attention_heads"]
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


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings under the names of before transformers 5, which wrote rope_scaling: null for plain ones."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    plain = found.get("rope_type", found.get("type")) in (None, "default") and not any(
        isinstance(value, dict) for value in found.values()
    )
    rope = {"rope_theta": found.get("rope_theta", config.get("rope_theta")), "rope_scaling": None if plain else found}
    if "partial_rotary_factor" in found:
        rope["partial_rotary_factor"] = found["partial_rotary_factor"]
    return rope


def _refuse_unsupported(config: Mapping[str, Any], source: Path) -> None:
    for key, value in ONLY.items():
        if config.get(key, value) not in (value, None):
            raise InputError(f"{source}: {key}={config[key]} is not supported, only {value} is.")
    if config["model_type"] == "mistral" and config.get("sliding_window") is not None:
        raise InputError(f"{source}: sliding_window={config['sliding_window']} is not supported, only null is.")
    other = next((kind for kind in config.get("layer_types") or () if kind != "full_attention"), None)
    if other:
        raise InputError(f"{source}: layer_types has {other}, which is not supported, only full_attention is.")


def _size(config: Mapping[str, Any], source: Path, key: str) -> int:
    if not isinstance(config.get(key), int):
        raise InputError(f"{source}: {key} is missing or no integer; is it the config.json of a model?")
    return int(config[key])


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


def is_spare(tensor: str, *, tied: bool) -> bool:
    """Whether a tensor on disk holds nothing that the model needs: a tied head's copy, rotary tables of old files."""
    return tensor.endswith("rotary_emb.inv_freq") or (tied and tensor == "lm_head.weight")
