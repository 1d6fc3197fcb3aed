"""The keys that a verb's configuration has, read off its schema; `--help` and the error messages go by them."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_ABOUT = ("text", "unit", "common", "choices", "is_name")
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Key:
    """A leaf of the configuration, such as `train.steps`."""

    name: str
    kind: Any
    default: Any
    text: str
    unit: str
    common: bool
    choices: tuple[str, ...]
    is_name: bool


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """Every key of a schema, in its order."""
    kinds = _annotations(schema)
    for item in dataclasses.fields(schema):
        name, kind = f"{prefix}{item.name}", kinds[item.name]
        if dataclasses.is_dataclass(kind):
            yield from keys(typing.cast(type, kind), f"{name}.")
        else:
            about = item.metadata
            yield Key(name, kind, _default(item), **{part: about[part] for part in _ABOUT})


@functools.cache
def sections(schema: type) -> tuple[str, ...]:
    """The names of a schema's own sections, sorted."""
    return tuple(sorted(name for name, kind in _annotations(schema).items() if dataclasses.is_dataclass(kind)))


def annotation_of(schema: type, name: str) -> Any:
    """Annotation of what `name` points to: a leaf's, a section's dataclass, an entry's of a mapping. None if nothing.

    >>> annotation_of(Pretrain, "data.train.web.path")
    <class 'str'>
    """
    kind: Any = schema
    for part in name.split("."):
        if dataclasses.is_dataclass(kind):
            kind = _annotations(typing.cast(type, kind)).get(part)
        elif is_mapping(kind):
            kind = typing.get_args(kind)[1]
        elif kind is not Any:
            return None
    return kind


def is_mapping(kind: Any) -> bool:
    """Whether a key holds named entries that users add."""
    return typing.get_origin(kind) is dict


def is_list(kind: Any) -> bool:
    """Whether a key holds a list."""
    return typing.get_origin(kind) is list


def is_text(kind: Any) -> bool:
    """Whether a key holds text."""
    return required(kind) is str


def is_optional(kind: Any) -> bool:
    """Whether a key may be null."""
    return type(None) in typing.get_args(kind)


def required(kind: Any) -> Any:
    """X for X and for Optional[X]."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    return next(part for part in typing.get_args(kind) if part is not type(None))


def choices_of(schema: type, name: str) -> tuple[str, ...]:
    """The words that a key takes; empty if any, or none, will do."""
    return next((key.choices for key in keys(schema) if key.name == name), ())


def in_words(kind: Any, choices: tuple[str, ...] = ()) -> str:
    """What a value must be, for error messages: `an integer or null`, `true, false or auto`."""
    plain = required(kind)
    if plain is bool and choices:
        words = f"{', '.join(('true', 'false', *choices[:-1]))} or {choices[-1]}"
    elif dataclasses.is_dataclass(plain):
        words = f"a mapping with {', '.join(item.name for item in dataclasses.fields(plain))}"
    elif is_mapping(plain):
        words = "a mapping {name: value}"
    elif is_list(plain):
        words = "a list [a, b]"
    else:
        words = _KINDS.get(plain, "a number, text in quotes, [a, b] or {name: value}")
    return words + " or null" * is_optional(kind)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` most likely meant: same last part, then its initials, then spelling.

    Names in the same section go before all others: `optimizer.learning_rate` is optimizer.lr.
    """
    from difflib import SequenceMatcher, get_close_matches

    def likeness(candidate: str) -> float:
        return SequenceMatcher(None, name, candidate).ratio()

    pool = list(candidates)
    section, _, leaf = name.rpartition(".")
    initials = "".join(word[:1] for word in leaf.split("_")) if "_" in leaf else leaf
    for wanted in (leaf, initials):
        if same := [candidate for candidate in pool if candidate.rpartition(".")[2] == wanted]:
            return max(same, key=likeness)
    siblings = [candidate for candidate in pool if section and candidate.rpartition(".")[0] == section]
    top = [] if section else [candidate for candidate in pool if "." not in candidate]
    if close := get_close_matches(name, top, n=1, cutoff=0.75):
        return close[0]
    by_leaf = {candidate.rpartition(".")[2]: candidate for candidate in reversed(siblings or pool)}
    if close := get_close_matches(leaf, by_leaf, n=1):
        return by_leaf[close[0]]
    close = [] if siblings else get_close_matches(name, pool, n=1)
    return close[0] if close else None


@functools.cache
def _annotations(schema: type) -> dict[str, Any]:
    """Of each field. Python would evaluate them anew each time, and every override asks."""
    return typing.get_type_hints(schema)


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default
