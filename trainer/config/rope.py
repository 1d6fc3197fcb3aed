"""model.rope_scaling: how rotary positions are stretched, named and bounded as in config.json of Hugging Face's models.

What the numbers do is trainer/model/rotary.py's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainer.errors import ConfigError

ORIGINAL = "original_max_position_embeddings"
# Of each kind: the fields that it must have, and those that it may have
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("factor",), (ORIGINAL,)),
    "yarn": (
        ("factor", ORIGINAL),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), ()),
}


def settle_scaling(given: Mapping[str, Any], key: str = "model.rope_scaling") -> dict[str, Any]:
    """A scaling with rope_type and all numbers as such; {} for plain positions. ConfigError names what is wrong."""
    fields = {name: value for name, value in given.items() if value is not None}
    kinds = {fields.pop(name) for name in ("rope_type", "type") if isinstance(fields.get(name), str)}
    if kinds <= {"default"} and not fields:
        return {}
    kind = next(iter(kinds)) if len(kinds) == 1 else None
    if kind not in KINDS:
        shown = " and ".join(sorted(map(str, kinds))) or "missing"
        raise ConfigError(f"{key}.type is {shown[:80]}: give one of {', '.join(KINDS)}.")
    required, optional = KINDS[kind]
    for name in fields:
        if name not in (*required, *optional):
            raise ConfigError(
                f"{key}.{str(name)[:80]}: not known of type={kind}; it has {', '.join((*required, *optional))}."
            )
    for name in required:
        if name not in fields:
            raise ConfigError(f"{key}.{name} is not set, which type={kind} needs.")
    return {"rope_type": kind} | {name: _number(f"{key}.{name}", name, value) for name, value in fields.items()}


def most_positions(scaling: Mapping[str, Any]) -> int | None:
    """Positions that a settled scaling stretches to; None where it doesn't say."""
    if scaling.get("rope_type") not in ("linear", "yarn") or ORIGINAL not in scaling:
        return None
    return round(scaling["factor"] * scaling[ORIGINAL])


def check_rope(given: Mapping[str, Any], sequence_length: int) -> None:
    """Refuses a scaling that is none, or that doesn't reach as far as rows do."""
    scaling = settle_scaling(given)
    most = most_positions(scaling)
    if most is not None and sequence_length > most:
        raise ConfigError(
            f"data.sequence_length={sequence_length}: model.rope_scaling stretches {scaling[ORIGINAL]} positions by "
            f"{scaling['factor']:g}, to {most}; use model.rope_scaling.factor="
            f"{math.ceil(sequence_length / scaling[ORIGINAL])} or more, or shorter rows."
        )


def _number(key: str, name: str, value: Any) -> float | int | bool:
    if name == "truncate":
        if not isinstance(value, bool):
            raise ConfigError(f"{key}={str(value)[:80]}: must be true or false.")
        return value
    low = 1 if name in ("factor", ORIGINAL) else 0
    whole = name == ORIGINAL
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or value < low or (low == 0 and value == 0) or value > 1e9 or (whole and value != int(value)):
        what = "a whole number of at least 1" if whole else "a number of at least 1" if low else "a number above 0"
        raise ConfigError(f"{key}={str(value)[:80]}: must be {what}.")
    return int(value) if whole else float(value)
