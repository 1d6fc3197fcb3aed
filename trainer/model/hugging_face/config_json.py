"""A config.json of others: read within bounds, and refused by name where it would bring in code, paths or other files.

Both roads from a Hugging Face folder to a model pass here: our own decoder's (model.init_from) and that of
the Hugging Face modules (model.path). Nothing heavy is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainer.errors import InputError

# Bounds on what a file may ask for, far above any model that is published
LARGEST_FILE = 16 * 2**20  # bytes
DEEPEST = 32  # levels of nesting
MOST_LAYERS = 1_000
MOST_EXPERTS = 16_384
MOST_POSITIONS = 2**24
LARGEST_NUMBER = 2**31  # of any other size

LAYERS = re.compile(r"(^|_)(layers?|blocks|depths?)$|^n_?layers?$")
BOUNDS = {
    LAYERS: MOST_LAYERS,
    re.compile(r"(^|_)experts$"): MOST_EXPERTS,
    re.compile(r"position|^n_ctx$|^n_pos$|seq_len|sequence_length"): MOST_POSITIONS,
}
NO_SIZES = re.compile(r"theta|_token_ids?$|_max_length$|^(max|min)_length$|id2label|label2id|task_specific_params")

# Sizes that are no larger than some dimension of some weight, under Hugging Face's names for them
WIDTHS = (
    *("vocab_size", "n_vocab", "hidden_size", "n_embd", "d_model", "dim", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "n_head", "n_heads"),
)
POSITIVE = (*WIDTHS, "num_hidden_layers", "n_layer", "n_layers", "intermediate_size", "n_inner", "n_positions")

# What is built into transformers and torch; another name may be that of a kernel which the Hub is asked for.
BUILT_IN = {
    "attn_implementation": ("eager", "sdpa", "flex_attention"),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
# Fields that would have transformers run code, or read files, that are no part of it
DOORS = (
    "auto_map",
    "code_revision",
    "configuration_files",
    "custom_generate",
    "custom_pipelines",
    "distributed_config",
    "fusion_config",
    "gguf_file",
    "kernel_config",
    "transformers_weights",
    "trust_remote_code",
    "use_kernels",
)
OVERRIDES = "model.overrides"
# Beside a config.json: weights that would have to be added to the model's
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def read_json_object(path: Path, *, largest: int = LARGEST_FILE) -> dict[str, Any]:
    """The object in a JSON file of others. InputError if it can't be read, or is larger (in bytes) or deeper than any.

    Only a file is read: not what a name for something else, such as a pipe, would give without an end.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: is no file; fetch it again.")
        if path.stat().st_size > largest:
            raise InputError(f"{path}: larger than {largest >> 20} MiB; it can't be what its name says.")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: can't be read as JSON ({reason}); fetch the file again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object; fetch the file again.")
    if _depth(content) > DEEPEST:
        raise InputError(f"{path}: nested more than {DEEPEST} levels deep; fetch the file again.")
    return content


def read_config_json(folder: Path, overrides: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """A folder's config.json without doors and within bounds. InputError names what is refused.

    `overrides` are checked in the place of the fields that they replace.
    """
    path = folder / "config.json"
    config = read_json_object(path)
    for key in overrides:
        for name in (key, f"_{key}", f"_{key}_internal") if key in BUILT_IN else ():
            config.pop(name, None)
    for fields, source in (
        ({k: v for k, v in config.items() if k not in overrides}, str(path)),
        (overrides, OVERRIDES),
    ):
        check_doors(fields, source)
        check_numbers(fields, source)
    adapter = next((name for name in ADAPTERS if (folder / name).exists()), None)
    if adapter:
        raise InputError(
            f"{folder / adapter}: an adapter's weights aren't added to the model's; have PEFT merge and save them, and "
            "give that folder."
        )
    return config


def check_doors(config: Mapping[str, Any], source: str) -> None:
    """Refuses, at any depth, what would run code or read files that aren't Hugging Face's own. InputError names it."""
    for where, key, value in fields_of(config):
        if key in DOORS and value not in (None, False):
            raise InputError(f"{source}: {where} asks for code or files of its own, which aren't used; {_mend(key)}.")
        if key == "quantization_config" and value is not None:
            raise InputError(
                f"{source}: {where} is not supported: weights are trained as they are; give a folder without it, with "
                "weights in fp32, fp16 or bf16."
            )
        plain = key.removeprefix("_").removesuffix("_internal")
        allowed: tuple[str, ...] = BUILT_IN.get(plain, ())
        other = next((name for name in _names(value) if name not in allowed), None) if allowed else None
        if other is not None:
            raise InputError(
                f"{source}: {where}={brief(other)} is none of {', '.join(allowed)}, which are built in, and no other "
                f"code is fetched; remove it, or set {plain} to {allowed[1]}."
            )


def check_numbers(config: Mapping[str, Any], source: str) -> None:
    """Refuses, at any depth, numbers beyond what any model has, before anything is made as large as they say."""
    for where, key, value in fields_of(config):
        if isinstance(value, bool) or not isinstance(value, int) or NO_SIZES.search(where):
            continue
        bound = next((most for kind, most in BOUNDS.items() if kind.search(key)), LARGEST_NUMBER)
        if key in POSITIVE and value < 1:
            raise InputError(f"{source}: {where}={value} is no positive integer; mend the file.")
        if abs(value) > bound:
            raise InputError(
                f"{source}: {where}={brief(value)} is beyond {bound:,}, which no model has; mend the file."
            )


def fields_of(config: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted place, key, value) of every field, those of nested objects included."""
    for key, value in config.items():
        place = f"{where}.{brief(key)}" if where else brief(key)
        yield place, str(key), value
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Mapping):
                yield from fields_of(inner, place)


def _names(value: Any) -> Iterator[Any]:
    """The names in an implementation: one, or one for each part of the model; null is the default."""
    for name in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(name, Mapping):
            yield from _names(name)
        elif name is not None:
            yield name


def _depth(content: Any) -> int:
    """Levels of nesting, counted no further than a little beyond the bound."""
    level, depth = [content], 0
    while level and depth <= DEEPEST:
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        depth += 1
    return depth


def _mend(key: str) -> str:
    return "choose another model" if key == "auto_map" else "remove it from the file"


def brief(value: Any) -> str:
    """A key or value of a file of others, short and in a line."""
    text = value if isinstance(value, str) and value.isprintable() and value else ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
