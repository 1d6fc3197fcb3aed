"""Overrides and conf/ → the configuration, a dataclass of trainer/config/; every slip is one ConfigError.

compose("pretrain", ["model=tiny", "train.steps=10"]).train.steps == 10
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from launch import groups, interpolation, keys, sources
from launch.dashboard_file import read_dashboard, with_dashboard_file
from launch.hub_names import pinned_names
from launch.model_sizes import causal_lm_from, sizes_from
from launch.overrides import (
    SPACE,
    VERBATIM,
    Names,
    Override,
    for_hydra,
    implied,
    is_entry,
    parse,
    split_verbatim,
    wrong_type,
)
from launch.packing import packing_from
from launch.verbs import VERBS
from trainer.config import Pretrain, as_stored_values, flatten
from trainer.errors import ConfigError
from trainer.machine import credentials
from trainer.machine.environment import FromEnvironment, as_stored


def compose(verb: str, arguments: Sequence[str], config_dir: Path | None = None) -> Any:
    """The configuration of `verb`, an instance of its schema (`trainer.config.VERBS`).

    `arguments` are what the user typed after the verb; `config_dir` holds groups and choices of the user's own.
    """
    if config_dir and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such folder.")
    schema = VERBS[verb].schema
    assert schema is not None, f"{verb} takes plain arguments"
    for text in arguments:
        _check_text(credentials.masked(text.lstrip("+~").partition("=")[0]), text)
    names = Names(VERBS[verb], schema, groups.folders(config_dir))
    arguments, own_file = with_dashboard_file(arguments, names.folders) if verb == "dashboard" else (arguments, None)
    overrides, verbatim = split_verbatim([parse(text, names) for text in arguments])
    overrides = [*overrides, *implied(overrides, groups.default_choices(verb))]
    with _explained(names, overrides):
        said = said_by_experiment(names, overrides, config_dir)
    overrides += implied([*said, *overrides], groups.default_choices(verb))
    overrides += pinned_names([*said, *overrides])
    overrides += sizes_from([*said, *overrides])
    overrides += causal_lm_from([*said, *overrides])
    if issubclass(schema, Pretrain):
        overrides += packing_from([*said, *overrides])
    with _explained(names, overrides):
        config = _resolve(names, overrides, config_dir)
    if own_file is not None:
        config = read_dashboard(config, own_file)
    _set_verbatim(config, verbatim, schema)
    _check_credentials(dataclasses.asdict(config))
    return config


def as_yaml(config: Any) -> str:
    """A configuration as YAML; what came from the environment stands as it was written."""
    values = as_stored_values(config) if isinstance(config, Pretrain) else as_stored(dataclasses.asdict(config))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _check_credentials(tree: Any, key: str = "") -> None:
    """Refuses credentials anywhere in a configuration, its files included."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            _check_credentials(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list):
        for value in tree:
            _check_credentials(value, key)
    elif isinstance(tree, str):
        _check_text(key, tree)


def _check_text(key: str, text: str) -> None:
    if not isinstance(text, FromEnvironment):  # which is stored as it was written
        credentials.check_no_secret(key, text)
    if key not in VERBATIM:
        credentials.check_url(key, text)


def said_by_experiment(names: Names, overrides: Sequence[Override], config_dir: Path | None) -> list[Override]:
    """What experiment=… says in its files, as overrides: it means the same there for other keys as it does when typed.

    Of what was typed as well, nothing: that wins.
    """
    if not any(override.name == "experiment" and override.value != "null" for override in overrides):
        return []
    whole, choices = _compose(names, overrides, config_dir)
    typed = {override.name for override in overrides}
    groups_said = [
        Override(group, choice or "null")
        for group, default in groups.default_choices(names.verb.name).items()
        if group not in typed and (choice := choices.get(group, default)) != default
    ]
    without = [override for override in overrides if override.name != "experiment"]
    rest, _ = _compose(names, [*without, *groups_said], config_dir)
    before, after = (flatten(_unresolved(config)) for config in (rest, whole))
    keys_said = [
        Override(key, "null" if value is None else str(value))
        for key, value in after.items()
        if key not in before or before[key] != value
    ]
    return [*groups_said, *keys_said]


def _unresolved(config: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(config, resolve=False)
    return dict(values)


def _resolve(names: Names, overrides: Sequence[Override], config_dir: Path | None) -> Any:
    whole, _ = _compose(names, overrides, config_dir)
    config = OmegaConf.to_object(whole)
    interpolation.mark(config, whole, names.schema)
    return config


def _compose(
    names: Names, overrides: Sequence[Override], config_dir: Path | None
) -> tuple[DictConfig, dict[str, str | None]]:
    """The configuration before it is resolved, and the choice of each group."""
    verb = names.verb.name
    OmegaConf.register_new_resolver("python_stdlib", lambda: sysconfig.get_path("stdlib"), replace=True)
    interpolation.register_resolver()
    # the file of a base verb names the base's schema, which the verb's own extends
    _store(f"{groups.base_of(verb) or verb}_schema", names.schema)
    entries = [o for o in overrides if o.prefix != "~" and is_entry(o.name, names.schema)]
    ready = [for_hydra(override, names) for override in overrides if override not in entries]
    if config_dir:
        sources.register_source()
        url = QuotedString(text=f"banyan://{config_dir.resolve()}", quote=Quote.single).with_quotes()
        ready.append(f"hydra.searchpath=[{url}]")
    with initialize_config_module("conf", job_name="banyan", version_base="1.3"):
        composed = hydra_compose(verb, ready, return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return _with_entries(composed, [for_hydra(entry, names) for entry in entries]), choices


@functools.lru_cache(maxsize=1)  # the last one: another schema may take the place of the same name
def _store(name: str, schema: type) -> None:
    ConfigStore.instance().store(name=name, node=schema)


def _with_entries(config: DictConfig, entries: Sequence[str]) -> DictConfig:
    """Adds entries of mappings, such as data.train.web.path=DIR; Hydra itself can't add typed ones."""
    for entry in OverridesParser.create().parse_overrides(list(entries)):
        added = OmegaConf.create()
        OmegaConf.update(added, entry.key_or_group, entry.value(), force_add=True)
        config.merge_with(added)
    return config


def _set_verbatim(config: Any, values: dict[str, str], schema: type) -> None:
    for name, value in values.items():
        if name.startswith(SPACE):
            config.search.space[name.removeprefix(SPACE)] = value
            continue
        *sections, leaf = name.split(".")
        holder = config
        for section in sections:
            holder = getattr(holder, section)
        null = value == "null" and keys.is_optional(keys.annotation_of(schema, name))
        setattr(holder, leaf, None if null else value)


@contextmanager
def _explained(names: Names, overrides: Sequence[Override]) -> Iterator[None]:
    """Turns what Hydra and OmegaConf raise into one line that names the key and what it must be."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _explanation(error, names, overrides) from error
    except yaml.MarkedYAMLError as error:
        place = f"{error.problem_mark.name}, line {error.problem_mark.line + 1}" if error.problem_mark else "YAML"
        raise ConfigError(f"{place}: {error.problem or 'not valid YAML'}.") from error


def _explanation(error: Exception, names: Names, overrides: Sequence[Override]) -> ConfigError:
    cause = next(
        (e for e in (error, error.__cause__, error.__context__) if isinstance(e, OmegaConfBaseException)), None
    )
    key = str(cause.full_key or "") if cause else _unreadable_key(error)
    if not key:
        return ConfigError(f"{_first_line(cause or error)}.")
    given = next((override for override in reversed(overrides) if override.name == key), None)
    name = given.name if given else key
    kind, choices = keys.annotation_of(names.schema, name), keys.choices_of(names.schema, name)
    if given and kind and not isinstance(cause, InterpolationResolutionError):
        return wrong_type(given, kind, choices)
    place = str(given) if given else f"{_file_named_in(error)}{key}"
    if kind is None:
        return ConfigError(f"{place}: {names.verb.name} has no such key; {names.hint(key)}")
    if isinstance(cause, InterpolationResolutionError):
        return ConfigError(f"{place}: {_first_line(cause)}.")
    return ConfigError(f"{place}: must be {keys.in_words(kind, choices)}.")


def _unreadable_key(error: Exception) -> str:
    """The key whose value Hydra's grammar doesn't know, or takes for a sweep."""
    if isinstance(error, OverrideParseException):
        return error.override.lstrip("+~").partition("=")[0]
    sweep = re.match(r"Ambiguous value for argument '[+~]*([^=]+)=", str(error))
    return sweep[1] if sweep else ""


def _file_named_in(error: Exception) -> str:
    found = re.match(r"In '(.*?)'|Error merging '(.*?)' with schema", str(error))
    return f"{found[1] or found[2]}.yaml: " if found else ""


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
