"""What a sweep varies: `search.space.optimizer.lr=loguniform(1e-4,1e-2)`, read strictly and drawn from.

A key is one of pretrain's, or one of its groups (search.space.schedule=choice(cosine,wsd)). Values are text, as a user
would type them after `banyan pretrain`, so that what a trial gets and what is reported are the same.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launch import keys
from launch.overrides import SPACE, Names, parse
from trainer.config import flatten
from trainer.errors import ConfigError

Values = dict[str, str]
"""What a trial sets: text by key of pretrain."""

KINDS = ("loguniform", "uniform", "int", "choice", "grid")
EXAMPLE = "loguniform(1e-4,1e-2), uniform(0,0.5), int(1,8), choice(a,b) or grid(a,b)"
DIGITS = 4  # of a drawn number: no more make a difference, and names and tables stay readable
# Belong to a trial or to the sweep: not to be searched over.
OF_SWEEP = ("run.", "launch.", "track.", "checkpoint.", "evaluate.every", "evaluate.tasks_every")
_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Distribution:
    """What one key is drawn from: a range [low, high], or some values."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[str, ...] = ()

    @property
    def is_range(self) -> bool:
        """Whether it lies between two numbers, rather than being a list."""
        return not self.values

    def draw(self, source: random.Random) -> str:
        """One value at random."""
        if self.values:
            return source.choice(self.values)
        if self.kind == "int":
            return str(source.randint(int(self.low), int(self.high)))
        if self.kind == "loguniform":
            return self.text(math.exp(source.uniform(math.log(self.low), math.log(self.high))))
        return self.text(source.uniform(self.low, self.high))

    def text(self, number: float) -> str:
        """A number of the range as text, clipped to the range."""
        inside = min(max(number, self.low), self.high)
        if self.kind == "int":
            return str(round(inside))
        return repr(min(max(float(f"{inside:.{DIGITS}g}"), self.low), self.high))

    def number(self, text: str) -> float | int | str:
        """A value of the range as the number that it is; one of a list stays text."""
        if not self.is_range:
            return text
        return int(text) if self.kind == "int" else float(text)

    def samples(self) -> tuple[str, ...]:
        """Values that show whether all would be accepted: every one of a list, the ends of a range."""
        return self.values or (self.text(self.low), self.text(self.high))


Space = dict[str, Distribution]


def read_space(given: Mapping[str, Any], names: Names) -> Space:
    """The space of search.space; `names` are pretrain's. ConfigError for what can't be read or isn't pretrain's."""
    space = {}
    for key, text in flatten(dict(given)).items():
        parse(f"{key}=0" if not names.is_group(key) else f"{key}={_first_choice(key, text)}", names)
        if key.startswith(OF_SWEEP):
            raise ConfigError(f"{SPACE}{key}: a sweep keeps {key} to itself; vary something else.")
        kind = None if names.is_group(key) else keys.required(keys.annotation_of(names.schema, key))
        space[key] = read_distribution(key, text, kind)
    return space


def read_distribution(key: str, text: Any, kind: Any = None) -> Distribution:
    """`loguniform(1e-4,1e-2)` as a distribution; `kind` is the type of the key, if it has one."""
    match = _CALL.fullmatch(text) if isinstance(text, str) else None
    if not match or match[1] not in KINDS:
        raise ConfigError(f"{SPACE}{key}={text}: give a distribution: {EXAMPLE}.")
    name, inside = match[1], _arguments(match[2])
    if name in ("choice", "grid"):
        if not inside or "" in inside:
            raise ConfigError(f"{SPACE}{key}={text}: {name} has no values, or an empty one; write {name}(a,b).")
        if len(set(inside)) < len(inside):
            raise ConfigError(f"{SPACE}{key}={text}: a value stands there twice.")
        return Distribution(name, values=tuple(inside))
    low, high = _range(key, text, inside)
    if low >= high:
        raise ConfigError(f"{SPACE}{key}={text}: the range is empty; the first number must be below the second.")
    if name == "loguniform" and low <= 0:
        raise ConfigError(f"{SPACE}{key}={text}: loguniform needs numbers above 0.")
    if name == "int" and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{SPACE}{key}={text}: int needs whole numbers.")
    if kind is int and name != "int":
        raise ConfigError(f"{SPACE}{key}={text}: {key} is an integer; use int({low:g},{high:g}) or choice(…).")
    if kind in (str, bool):
        raise ConfigError(f"{SPACE}{key}={text}: {key} must be {keys.in_words(kind)}; use choice(…).")
    return Distribution(name, low, high)


def to_numbers(values: Values, space: Space) -> dict[str, Any]:
    """Values as Tune and Optuna reckon with them."""
    return {key: space[key].number(text) if key in space else text for key, text in values.items()}


def to_texts(values: Mapping[str, Any]) -> Values:
    """Values as a trial's overrides have them."""
    return {key: value if isinstance(value, str) else repr(value) for key, value in values.items()}


def as_typed(values: Values) -> str:
    """Values in a line, as they are typed."""
    return "  ".join(f"{key}={value}" for key, value in values.items())


def all_points(space: Space) -> Iterator[Values]:
    """Every combination of lists. ConfigError if there is a range: that has no end."""
    for key, distribution in space.items():
        if distribution.is_range:
            raise ConfigError(
                f"{SPACE}{key}: a grid needs values, as grid(1e-3,3e-3); a range is for search=random, asha or tpe."
            )
    for values in itertools.product(*(distribution.values for distribution in space.values())):
        yield dict(zip(space, values, strict=True))


def draw_point(space: Space, *, seed: int, number: int) -> Values:
    """The values of trial `number`: the same whatever came before it and however many follow."""
    source = random.Random(f"{seed} {number}")
    return {key: distribution.draw(source) for key, distribution in space.items()}


def _arguments(text: str) -> list[str]:
    """What stands between the parentheses, cut at commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    stripped = [part.strip() for part in parts]
    return [] if stripped == [""] else stripped


def _range(key: str, text: str, inside: list[str]) -> tuple[float, float]:
    try:
        low, high = map(float, inside)
    except ValueError as error:
        raise ConfigError(f"{SPACE}{key}={text}: a range has two numbers, as in uniform(0,0.5).") from error
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{SPACE}{key}={text}: the range must be finite.")
    return low, high


def _first_choice(key: str, text: Any) -> str:
    return read_distribution(key, text).samples()[0]
