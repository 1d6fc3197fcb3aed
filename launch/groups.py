"""The groups of conf/ and of a user's own folder, read as plain YAML, so that `--help` needs no Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import conf

SHIPPED = Path(next(iter(conf.__path__)))


def folders(config_dir: Path | None) -> list[Path]:
    """Where groups are looked for: conf/, then the user's own folder."""
    return [SHIPPED, config_dir] if config_dir else [SHIPPED]


def choices(group: str, where: Sequence[Path]) -> list[str]:
    """Names of the files that `group=…` can choose."""
    found = {
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in where
        for path in (folder / group).rglob("*.yaml")
    }
    return sorted(found)


def base_of(verb: str) -> str | None:
    """The verb whose file the verb's own begins with, such as pretrain's of sweep's and plan's."""
    entries = _read(SHIPPED / f"{verb}.yaml").get("defaults", [])
    return next((entry for entry in entries if (SHIPPED / f"{entry}.yaml").is_file()), None)


def default_choices(verb: str) -> dict[str, str | None]:
    """Groups in the verb's defaults list and its base's, each with its default choice."""
    base = base_of(verb)
    entries = (entry for entry in _read(SHIPPED / f"{verb}.yaml").get("defaults", []) if isinstance(entry, dict))
    own = {group.rpartition(" ")[2].lstrip("/"): choice for entry in entries for group, choice in entry.items()}
    return (default_choices(base) if base else {}) | own


def default_values(verb: str) -> dict[str, Any]:
    """Values by key that the verb's file and its default choices set; all others are the schema's."""
    base = base_of(verb)
    values = (default_values(base) if base else {}) | _flat(_read(SHIPPED / f"{verb}.yaml"))
    for group, choice in default_choices(verb).items():
        if choice is not None:
            values |= _flat(_read(SHIPPED / group / f"{choice}.yaml"), f"{group}.")
    return {key: value for key, value in values.items() if not key.endswith("defaults")}


@cache
def _read(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values
