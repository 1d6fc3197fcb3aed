"""Every field that a config.json of an architecture of ours can have: what it must be for our decoder to be the model.

Four kinds, and no fifth: READ decide the model, ONLY may have just the values that our decoder computes, WITHOUT_EFFECT
don't change what the weights compute, and whatever else a file has is refused by name, unless it is null. Defaults are
those of transformers 5. tests/model/hugging_face/test_config_fields.py holds this against Hugging Face's own classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.rope import ORIGINAL, settle_scaling
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face.config_json import brief

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
ROPE = ("rope_theta", "rope_parameters", "rope_scaling")
WINDOW = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
READ = (
    *SIZES,
    *ROPE,
    *WINDOW,
    "model_type",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "tie_word_embeddings",
    "dtype",
    "torch_dtype",
)
OF_EXPERTS = ("num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob")
# (values that our decoder computes), besides a missing one and null
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1, 1.0),
    "rope_interleaved": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "pruned_heads": ({}, []),
    "per_layer_config": ({},),
    "quantization_config": (),
    "auto_map": (),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([],),
}
_WITHOUT_EFFECT = """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _experts_implementation
    _experts_implementation_internal _flash_attn_2_enabled _name_or_path architectures attention_dropout
    attn_implementation bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward classifier_dropout
    cls_token_id decoder_start_token_id diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    eos_token_id experts_implementation exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label initializer_range is_decoder is_llama_config label2id length_penalty mask_token_id
    max_length max_new_tokens max_position_embeddings min_length modalities name_or_path no_repeat_ngram_size
    num_beam_groups num_beams num_labels num_return_sequences output_attentions output_hidden_states
    output_router_logits output_scores
    pad_token_id prefix pretraining_tp problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate router_aux_loss_coef sep_token_id suppress_tokens task_specific_params temperature
    tf_legacy_loss tie_encoder_decoder tie_last_hidden_states tokenizer_class top_k top_p torchscript
    transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed unsloth_version use_bfloat16
    use_cache use_return_dict xla_device
"""
WITHOUT_EFFECT = frozenset(_WITHOUT_EFFECT.split())
DTYPES = ("float32", "float16", "bfloat16", "float64", "float", "half", "auto")
# Key and value heads and width of a head where a file leaves them out; None: by the number of query heads
KEY_VALUE_HEADS = {"llama": None, "mistral": 8, "qwen2": 32, "qwen3": 32, "qwen3_moe": 4}
HEAD_WIDTHS = {"qwen3": 128}
WINDOW_TOKENS = 4096


@dataclass(frozen=True)
class Fields:
    """The fields of a config.json, or of the object at `within` in it; `source` is the file's name for errors.

    `kind` is its model_type.
    """

    config: Mapping[str, Any]
    source: Path
    kind: str
    within: str = ""

    def refuse(self, key: str, why: str) -> InputError:
        """The refusal of a field, with its value."""
        return InputError(f"{self.source}: {self.within}{brief(key)}={brief(self.config.get(key))} {why}")

    def size(self, key: str) -> int:
        """A size that must be there."""
        value = self.config.get(key)
        if value is None:
            raise InputError(f"{self.source}: {key} is missing; is it the config.json of a model?")
        if type(value) is not int or value < 1:
            raise self.refuse(key, "is no positive integer; mend the file.")
        return value

    def size_or(self, key: str, default: int | None) -> int | None:
        """A size that may be missing or null."""
        return default if self.config.get(key) is None else self.size(key)

    def flag(self, key: str) -> bool:
        """A flag; false if it is missing."""
        value = self.config.get(key, False)
        if type(value) is not bool:
            raise self.refuse(key, "is neither true nor false; mend the file.")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number above zero."""
        value = self.config.get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self.refuse(key, "is no number above 0; mend the file.")
        return float(value)


def known_fields(kind: str) -> set[str]:
    """Every field that is looked at, or known to have no effect, for a model_type."""
    return {*READ, *ONLY, *WITHOUT_EFFECT, *(OF_EXPERTS if kind == "qwen3_moe" else ())}


def check_fields(fields: Fields) -> None:
    """Refuses the first field that has another value than our decoder computes, or that isn't known."""
    known = known_fields(fields.kind)
    for key, value in fields.config.items():
        if value is None:
            continue
        if key not in known:
            raise fields.refuse(
                key,
                f"isn't known of a {fields.kind}, nor that our decoder would compute the same: remove it if it has no "
                "effect, or train the folder with Hugging Face's own code (model.path=DIR).",
            )
        if key in ONLY and value not in ONLY[key]:
            allowed = ONLY[key]
            raise fields.refuse(key, f"is not supported, only {allowed[0] if allowed else None} is.")
    for key in ("dtype", "torch_dtype"):
        value = fields.config.get(key)
        if value is not None and (type(value) is not str or value.removeprefix("torch.") not in DTYPES):
            raise fields.refuse(key, f"is not supported, only {', '.join(DTYPES[:4])} are.")


def rope_positions(fields: Fields) -> dict[str, Any]:
    """rope_theta and rope_scaling of Model. InputError for kinds that our decoder doesn't have, or two of them.

    Both stand in rope_parameters, or before transformers 5 in rope_theta and rope_scaling; what has both must say the
    same.
    """
    bases: dict[str, float] = {}
    scalings: dict[str, dict[str, Any]] = {}
    if fields.config.get("rope_theta") is not None:
        bases["rope_theta"] = fields.number("rope_theta", 0.0)
    for key in ("rope_parameters", "rope_scaling"):
        rope = fields.config.get(key)
        if rope is None:
            continue
        if not isinstance(rope, Mapping):
            raise fields.refuse(key, "is no object; mend the file.")
        if rope.get("rope_theta") is not None:
            inner = Fields(rope, fields.source, fields.kind, within=f"{key}.")
            bases[f"{key}.rope_theta"] = inner.number("rope_theta", 0.0)
        scalings[key] = _rope_scaling(fields, key, rope)
    _require_one(fields, bases)
    _require_one(fields, scalings)
    return {"rope_theta": next(iter(bases.values()), 10000.0), "rope_scaling": next(iter(scalings.values()), {})}


def _rope_scaling(fields: Fields, key: str, rope: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling that an object describes, settled."""
    given = {name: value for name, value in rope.items() if name != "rope_theta" and value is not None}
    part = given.pop("partial_rotary_factor", 1)
    if part != 1:
        raise InputError(f"{fields.source}: {key}.partial_rotary_factor={brief(part)} is not supported, only 1 is.")
    kind, positions = given.get("rope_type", given.get("type")), fields.config.get("max_position_embeddings")
    if kind in ("yarn", "llama3") and ORIGINAL not in given and positions is not None:  # transformers' default
        given[ORIGINAL] = positions
    try:
        return settle_scaling(given, key)
    except ConfigError as error:
        raise InputError(f"{fields.source}: {error}") from None


def _require_one(fields: Fields, found: Mapping[str, Any]) -> None:
    values = list(found.values())
    if any(value != values[0] for value in values):
        contradicting = " and ".join(f"{key}={value}" for key, value in found.items())
        raise InputError(f"{fields.source}: {contradicting} contradict each other; mend the file.")


def attention_window(fields: Fields) -> int | None:
    """Tokens that a position sees, itself among them, in the layers that see the fewest; None where none is limited.

    Rows that aren't longer are the same with it and without. Our decoder has no windows.
    """
    layers, types = fields.size("num_hidden_layers"), fields.config.get("layer_types")
    window = fields.size_or("sliding_window", None)
    if fields.kind == "mistral" and "sliding_window" not in fields.config:
        window = WINDOW_TOKENS
    if fields.kind.startswith("qwen"):
        if not fields.flag("use_sliding_window"):
            window = None
        elif "sliding_window" not in fields.config:
            window = WINDOW_TOKENS
    if types is None:
        first = fields.config.get("max_window_layers", 28) if fields.kind in ("qwen2", "qwen3") else 0
        if type(first) is not int:
            raise fields.refuse("max_window_layers", "is no integer; mend the file.")
        return window if first < layers else None
    if not isinstance(types, list) or len(types) != layers:
        raise fields.refuse("layer_types", f"isn't a list of num_hidden_layers={layers} names; mend the file.")
    other = next((kind for kind in types if kind not in ("full_attention", "sliding_attention")), None)
    # transformers takes a mistral with layer_types for a ministral, which must have a window
    if other is not None or (window is None and ("sliding_attention" in types or fields.kind == "mistral")):
        raise fields.refuse(
            "layer_types", "is not supported, only full_attention is, or sliding_attention with a window."
        )
    # transformers looks at layer_types of a qwen3_moe and a llama no more than it must
    limited = "sliding_attention" in types or fields.kind == "qwen3_moe"
    return window if limited else None


def check_head_sizes(fields: Fields, *, heads: int, kv_heads: int, head_dim: int | None) -> None:
    """Refuses heads that don't fit each other."""
    hidden = fields.size("hidden_size")
    if heads % kv_heads:
        raise fields.refuse("num_attention_heads", f"is no multiple of num_key_value_heads={kv_heads}; mend the file.")
    if hidden % heads and (head_dim is None or fields.kind == "llama"):
        raise fields.refuse("hidden_size", f"is no multiple of num_attention_heads={heads}; mend the file.")
    width = head_dim or hidden // heads
    if width % 2:
        raise InputError(
            f"{fields.source}: heads are {width} wide (head_dim): rotary positions turn pairs; mend the file."
        )


def experts_of(fields: Fields) -> dict[str, Any]:
    """The fields of Model that a qwen3_moe has besides."""
    counts = {
        key: fields.size(key) for key in ("num_experts", "num_local_experts") if fields.config.get(key) is not None
    }
    if len(set(counts.values())) > 1:
        raise fields.refuse(
            "num_experts", f"and num_local_experts={counts['num_local_experts']} contradict each other."
        )
    count = next(iter(counts.values())) if counts else fields.size("num_experts")
    chosen = fields.size("num_experts_per_tok")
    if chosen > count:
        raise fields.refuse("num_experts_per_tok", f"is more than the {count} experts there are; mend the file.")
    return {
        "num_experts": count,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": fields.size("moe_intermediate_size"),
        "norm_topk_prob": fields.flag("norm_topk_prob"),
    }
