"""Sizes that a config.json claims, held against the files of weights: before anything is made as large as it says.

Nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Protocol

from trainer.errors import InputError
from trainer.model.hugging_face.config_json import LAYERS, NO_SIZES, WIDTHS, brief, fields_of

NUMBER = re.compile(r"\.(\d{1,9})\.")  # of a layer, in a tensor's name


class Shaped(Protocol):
    """A tensor on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...


def require_widths(
    config: Mapping[str, Any], tensors: Iterable[Shaped], source: Path, *, apart_from: Collection[str] = ()
) -> None:
    """Refuses a size that no tensor of the files has, nor a larger one. InputError names it.

    Those `apart_from` are overridden: they are another's claim.
    """
    largest = max((size for tensor in tensors for size in tensor.shape), default=0)
    for where, key, value in fields_of(config):
        if key in WIDTHS and where not in apart_from and type(value) is int and value > largest:
            raise InputError(
                f"{source}: {where}={value}, but no weight beside it is larger than {largest:,} in any dimension; mend "
                "the file, or fetch the weights that belong to it."
            )


def misfit(name: str, found: tuple[int, ...] | None, wanted: tuple[int, ...], config: Mapping[str, Any]) -> str:
    """In words, what a config.json makes of a tensor that is otherwise (None: not there), with the fields that do."""
    claims = _layers(name, config) if found is None else _claims(found, wanted, config)
    says = f" by {claims}; mend the file, or fetch the weights that belong to it" if claims else ""
    shown = "not there" if found is None else found
    return f"{brief(name)} is {shown}, {wanted} in the model that its config.json describes{says}"


def _layers(name: str, config: Mapping[str, Any]) -> str:
    """The fields with a number of layers that goes as far as a tensor's."""
    found = NUMBER.search(name)
    counts = {key: value for key, value in config.items() if LAYERS.search(key) and type(value) is int}
    return " or ".join(f"{brief(key)}={count}" for key, count in counts.items() if found and count > int(found[1]))


def _claims(found: tuple[int, ...], wanted: tuple[int, ...], config: Mapping[str, Any]) -> str:
    """The fields with the first size that differs, or two of which it is the product."""
    padded = (*found, *[None] * len(wanted))
    size = next((size for size, there in zip(wanted, padded, strict=False) if size != there), None)
    sizes = {key: value for key, value in config.items() if type(value) is int and not NO_SIZES.search(key)}
    single = [key for key, value in sizes.items() if value == size]
    pair = next(
        (pair for pair in combinations_with_replacement(sizes, 2) if sizes[pair[0]] * sizes[pair[1]] == size), ()
    )
    return " or ".join(f"{brief(key)}={sizes[key]}" for key in single) or " and ".join(
        f"{brief(key)}={sizes[key]}" for key in pair
    )
