"""Refuses values outside the choices or bounds of their fields, of any verb."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from trainer.config.names import check_name
from trainer.errors import require


def check_values(section: Any, prefix: str = "") -> None:
    """Refuses a value outside a field's choices or bounds, and what is no name, anywhere in the configuration."""
    for item in dataclasses.fields(section):
        value, key, rules = getattr(section, item.name), f"{prefix}{item.name}", item.metadata
        if dataclasses.is_dataclass(value):
            check_values(value, f"{key}.")
        elif isinstance(value, dict):
            for name, entry in value.items():
                if dataclasses.is_dataclass(entry):
                    require(name.isidentifier(), f"{key}.{name}: a name is letters, digits and underscores.")
                    check_values(entry, f"{key}.{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            unit = f" ({rules['unit']})" if rules["unit"] else ""
            limit = f" and at most {rules['high']}" if rules["high"] < math.inf else ""
            within = abs(value) != math.inf and rules["low"] <= value <= rules["high"]
            require(within, f"{key}={value}: must be at least {rules['low']}{limit}{unit}.")
        elif isinstance(value, str):
            choices = rules.get("choices", ())
            require(
                not str(item.type).startswith("bool") or value in choices,
                f"{key}={value}: not known; choose one of true, false, {', '.join(choices)}.",
            )
            check_text(key, value, choices=choices, is_name=rules.get("is_name", False))


def check_text(key: str, value: str, *, choices: Sequence[str], is_name: bool) -> None:
    """Refuses text that isn't among the field's choices, is no name where it must be one, or can't be stored."""
    require(not choices or value in choices, f"{key}={value}: not known; choose one of {', '.join(choices)}.")
    if is_name:
        check_name(key, value)
    require(  # generate's prompt isn't stored, and prepare escapes where it writes to
        key in ("prompt", "data.output")
        or value.isascii()
        or not any("\ud800" <= letter <= "\udfff" for letter in value),
        f"{key}={value!a}: isn't UTF-8, as what is stored must be; rename the folder or file.",
    )
