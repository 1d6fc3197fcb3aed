"""Thresholds as tables over the values that cleaning counted (data.clean.signals=true): other ones cost no second pass.

clean = with_thresholds(stored_cleaning(output), {"data.clean.gopher_quality.lowest_words": "20"})
for line in compare_thresholds(output, clean): print(line)
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from trainer.config.clean import Clean
from trainer.config.knobs import deciding_values
from trainer.config.plain_values import with_values
from trainer.config.values import check_values
from trainer.data.clean.document import Limits, Verdict
from trainer.data.clean.record import CHARACTERS, LEFT, read_outcomes, read_signals
from trainer.data.clean.stages import tables_of
from trainer.data.text.filters import EMPTY
from trainer.errors import ConfigError, InputError, require

PREFIX = "data.clean."
STAYS = -1


@dataclass(frozen=True)
class Decisions:
    """What becomes of documents under one table of thresholds."""

    names: tuple[str, ...]  # of rules, in order
    rules: np.ndarray  # (documents,) int64: the number of the rule that rejects each, or STAYS
    values: np.ndarray  # (documents,) float64: what was counted, and
    limits: np.ndarray  # the bound that it breaks

    def verdict(self, row: int) -> Verdict | None:
        """Of one document."""
        rule = int(self.rules[row])
        if rule == STAYS:
            return None
        return Verdict(self.names[rule], float(self.values[row]), float(self.limits[row]))


def decide(tables: Sequence[Limits], names: Sequence[str], signals: np.ndarray) -> Decisions:
    """The first rule, in order, that each document breaks: signals are float64 (documents, names).

    A value that wasn't counted of a document, NaN, breaks none.
    """
    bounds = {f"{table.stage}.{rule}": bound for table in tables for rule, bound in table.bounds.items()}
    bounds[LEFT] = (1, None)
    rules = np.full(len(signals), STAYS)
    values, limits = np.zeros(len(signals)), np.zeros(len(signals))
    for number, (name, (low, high)) in enumerate(bounds.items()):
        if name not in names:
            continue
        column = signals[:, names.index(name)]
        for bound, broken in ((high, _above(column, high)), (low, _below(column, low))):
            new = broken & (rules == STAYS)
            rules[new], values[new], limits[new] = number, column[new], 0.0 if bound is None else bound
    return Decisions(tuple(EMPTY if name == LEFT else name for name in bounds), rules, values, limits)


def _above(column: np.ndarray, bound: float | None) -> np.ndarray:
    return np.zeros(len(column), bool) if bound is None else column > bound


def _below(column: np.ndarray, bound: float | None) -> np.ndarray:
    return np.zeros(len(column), bool) if bound is None else column < bound


# ------------------------------------------------------------------------------------------------------ the settings


def threshold_kinds(schema: Any = Clean, prefix: str = PREFIX) -> dict[str, Any]:
    """The keys of all thresholds, and their types."""
    found: dict[str, Any] = {}
    hints = get_type_hints(schema)
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(item.default_factory):
            found |= threshold_kinds(item.default_factory, f"{prefix}{item.name}.")
        elif item.metadata["threshold"]:
            found[f"{prefix}{item.name}"] = hints[item.name]
    return found


def stored_cleaning(output: Path, settings: Mapping[str, Any]) -> Clean:
    """The cleaning by which an output was prepared, from the settings that it kept. InputError where it can't be."""
    values = {key.removeprefix(PREFIX): value for key, value in settings.items() if key.startswith(PREFIX)}
    values = {key: value for key, value in values.items() if "'s " not in key}
    try:
        clean = with_values(Clean(), values)
        check_values(clean, PREFIX)
        tables_of(clean)
    except (AttributeError, TypeError, KeyError, ConfigError) as error:
        raise InputError(f"{output}: its settings of data.clean can't be read ({error}); prepare it again.") from error
    if not clean.stages:
        raise InputError(
            f"{output}: its documents weren't cleaned; prepare it with clean=… and data.clean.signals=true."
        )
    return clean


def with_thresholds(clean: Clean, typed: Mapping[str, str]) -> Clean:
    """Other thresholds, as they were typed. ConfigError where one isn't known, or of another type."""
    kinds = threshold_kinds()
    known = {key: kind for key, kind in kinds.items() if key.split(".")[2] in clean.stages}
    values = {}
    for key, text in typed.items():
        require(key in kinds, f"{key}: no threshold; of the stages here there are {', '.join(known)}.")
        require(
            key in known, f"{key}: the stage isn't among those by which it was prepared, {', '.join(clean.stages)}."
        )
        values[key.removeprefix(PREFIX)] = _parsed(key, text, kinds[key])
    changed = with_values(clean, values)
    check_values(changed, PREFIX)
    return changed


def _parsed(key: str, text: str, kind: Any) -> float | bool | None:
    plain = next((each for each in get_args(kind) if each is not type(None)), kind)
    optional = type(None) in get_args(kind)
    if optional and text in ("null", "None"):
        return None
    try:
        if plain is bool:
            return {"true": True, "false": False}[text.lower()]
        return plain(text)
    except (ValueError, KeyError):
        words = {bool: "true or false", int: "an integer", float: "a number"}[plain]
        raise ConfigError(f"{key}={text}: must be {words}{' or null' * optional}.") from None


def other_settings(clean: Clean, settings: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """The first setting of cleaning, thresholds aside, that an output was prepared with otherwise; or nothing."""
    kinds = threshold_kinds()
    now = {**deciding_values(clean, PREFIX), **identity}
    stored = {key: value for key, value in settings.items() if key.startswith(PREFIX) or key in now}
    for key in sorted({*now, *stored} - set(kinds)):
        if now.get(key) != stored.get(key):
            return f"{key}={stored.get(key)} there, {now.get(key)} here"
    return ""


# -------------------------------------------------------------------------------------------------------- the funnel


def compare_thresholds(output: Path, clean: Clean) -> Iterator[str]:
    """A table of what each rule rejects as it was prepared, and would with `clean`: documents and characters."""
    tables = tables_of(clean)
    then, now = Counter[str](), Counter[str]()
    then_size, now_size = Counter[str](), Counter[str]()
    moved = Counter[tuple[bool, bool]]()
    for rows, (names, signals) in zip(read_outcomes(output), _signals_of(output), strict=True):
        decisions = decide(tables, names, signals)
        sizes = signals[:, names.index(CHARACTERS)].astype(np.int64).tolist()
        new = [decisions.names[rule] if rule != STAYS else "" for rule in decisions.rules.tolist()]
        for before, after, size in zip((rule.decode() for rule in rows["rule"].tolist()), new, sizes, strict=True):
            then[before] += 1
            then_size[before] += size
            now[after] += 1
            now_size[after] += size
            moved[bool(before), bool(after)] += 1
    order = [f"{table.stage}.{rule}" for table in tables for rule in table.bounds] + [EMPTY]
    yield f"{'':38} {'then':>12} {'characters':>16} {'now':>12} {'characters':>16}"
    total = then.total()
    yield _row("read", total, sum(then_size.values()), total, sum(now_size.values()))
    for rule in order:
        if then[rule] or now[rule]:
            yield _row(rule, then[rule], then_size[rule], now[rule], now_size[rule])
    yield _row("stay", then[""], then_size[""], now[""], now_size[""])
    yield f"{moved[True, False]:,} that were rejected would stay; {moved[False, True]:,} that stayed would be rejected."


def _signals_of(output: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    found = list(read_signals(output))
    if not found or any(CHARACTERS not in names or LEFT not in names for names, table in found if len(table)):
        raise InputError(f"{output}: no values of its documents were kept; prepare it with data.clean.signals=true.")
    return iter(found)


def _row(name: str, *counts: int) -> str:
    documents, characters, new_documents, new_characters = counts
    return f"{name:38} {documents:12,} {characters:16,} {new_documents:12,} {new_characters:16,}"
