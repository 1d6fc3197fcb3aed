"""What users type after the verb, `key=value` and `group=choice`: parsed, checked by name, made ready for Hydra.

Names are checked here, before Hydra sees them, so that a slip is answered with the nearest name that exists.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch import groups, keys
from launch.verbs import Verb
from trainer.config.names import as_name
from trainer.errors import ConfigError

_OVERRIDE = re.compile(r"(?P<prefix>\+\+|\+|~|)(?P<name>[^=~+\s]+)=(?P<value>.*)", re.DOTALL)
_REMOVAL = re.compile(r"~[^=\s]+")
_QUOTED = re.compile(r"""(['"]).*\1|.*(?<!\\)\$\{.*""", re.DOTALL)
_ROUND = r"[+-]?\d+(?:\.\d*)?[eE]\+?\d+|[+-]?\d+\.0*"
_ROUND_FLOAT = re.compile(_ROUND)
_ROUND_FIELD = re.compile(rf"(\w+)(\s*:\s*)({_ROUND})(?=\s*[,}}])")

VERBATIM = ("prompt", "evaluate.prompt", "evaluate.sandbox", "target", "word", "a", "b")
"""Keys whose value is the rest of the argument, to the letter: Hydra never sees it."""

LISTS_OF_PATHS = ("data.input",)
"""Keys whose values are paths, which may have commas in their names."""
_INPUT_OF_SOURCE = re.compile(r"data\.sources\.\w+\.input")
_COMMA = re.compile(r",(?![^{}]*\})")  # but within braces, where it stands between alternatives

SPACE = "search.space."
"""What a sweep varies: the rest of the key is one of pretrain's; the value, too, is kept from Hydra."""


@dataclass(frozen=True)
class Override:
    """One `name=value`; the prefix is Hydra's (`+` adds, `++` sets or adds, `~` removes)."""

    name: str
    value: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.prefix}{self.name}={self.value}"


@dataclass(frozen=True)
class Names:
    """The names that a verb knows: schema, groups in its defaults list, folders that hold the groups' files."""

    verb: Verb
    schema: type
    folders: Sequence[Path]

    def is_group(self, name: str) -> bool:
        """Whether `name=…` chooses a file rather than sets a key."""
        return name in groups.default_choices(self.verb.name) or (
            name in keys.sections(self.schema) and bool(groups.choices(name, self.folders))
        )

    def hint(self, name: str) -> str:
        """What an unknown name may have meant, or where to look."""
        if near := keys.nearest(name, self.candidates(name)):
            return f"did you mean {near}?"
        section = name.rpartition(".")[0]
        if section in keys.sections(self.schema):
            everything = (key.name for key in keys.keys(self.schema))
            siblings = [key.removeprefix(f"{section}.") for key in everything if key.startswith(f"{section}.")]
            return f"{section} has {', '.join(siblings)}."
        return f"`banyan {self.verb.name} --help all` lists all."

    def candidates(self, near: str) -> list[str]:
        """All groups, sections and keys, entries of mappings as `near` would name them."""
        names = [*groups.default_choices(self.verb.name), *keys.sections(self.schema)]
        for key in keys.keys(self.schema):
            names.append(key.name)
            if keys.is_mapping(key.kind) and near.startswith(f"{key.name}."):
                entry = ".".join(near.split(".")[: key.name.count(".") + 2])
                value_kind = keys.annotation_of(self.schema, entry)
                names += [f"{entry}.{leaf.name}" for leaf in keys.keys(value_kind)] if value_kind else []
        return names


LENGTHS = ("train.steps", "train.tokens", "train.epochs")  # ways to say how long a run is


def parse(text: str, names: Names) -> Override:
    """One argument as an override, its name and group choice checked."""
    match = _OVERRIDE.fullmatch(f"{text}=" if _REMOVAL.fullmatch(text) else text)
    if not match:
        raise ConfigError(f"{text}: an override is key=value or group=choice{_meant_choice(text, names)}")
    override = Override(**match.groupdict())
    if names.is_group(override.name):
        _check_choice(override, names)
    elif is_entry(override.name, names.schema) and re.search(r"[^\w.-]", override.name):
        raise ConfigError(f"{override.name}: a name is letters, digits and underscores.")
    elif keys.annotation_of(names.schema, override.name) is None:
        raise ConfigError(f"{override.name}: {names.verb.name} has no such key or group; {names.hint(override.name)}")
    return override


def implied(overrides: Sequence[Override], chosen: Iterable[str]) -> list[Override]:
    """What some overrides mean for other keys that the user left alone.

    - A mixture (data.train.NAME…) takes the place of data.path.
    - Of train.steps, train.tokens and train.epochs, the one that is given takes the place of the others.
    - Data of one's own (data.input, data.sources, data.path or a mixture) without data=… take the place of the default
      data as a whole: data=custom. data.name is then the folder's or the sets'.

    `chosen` are the groups of the verb's defaults list.
    """
    given = {override.name: unquoted(override.value) for override in overrides if override.prefix != "~"}
    mixture = [name.split(".")[2] for name in given if name.startswith("data.train.")]
    path = given.get("data.path", "null")
    settled: dict[str, str] = {}
    own = bool(mixture) or any(name.startswith("data.sources.") for name in given)
    own = own or not given.keys().isdisjoint(("data.input", "data.sources", "data.path", "data.train"))
    if own and "data" in chosen:
        settled["data"] = "custom"
    if (mixture or "data.train" in given) and path == "null":
        settled["data.path"] = "null"
        if "data" not in given:
            settled["data.name"] = as_name("-".join(dict.fromkeys(mixture)) or "mixture")
    if path != "null":
        settled["data.name"] = _name_of(path)
    for one in LENGTHS:
        if given.get(one, "null") != "null":
            settled |= {other: "null" for other in LENGTHS if other != one}
    return [Override(name, value) for name, value in settled.items() if name not in given]


def _name_of(path: str) -> str:
    """What data in a folder are called."""
    last = Path(path).resolve().name
    return "custom" if "${" in last else as_name(last)


def for_hydra(override: Override, names: Names) -> str:
    """The override as Hydra's grammar wants it, so that users need neither its prefixes nor its quotes.

    Text is quoted, `1e9` is an integer where one is wanted, one value is a list where one is wanted, groups outside
    the defaults list are appended.
    """
    if names.is_group(override.name):
        return str(replace(override, prefix="" if override.name in groups.default_choices(names.verb.name) else "+"))
    if override.prefix == "~":
        if not is_entry(override.name, names.schema):
            raise ConfigError(f"{override.name}: a key of the schema can't be removed; set it to what you want.")
        return f"~{override.name}"
    return f"{override.name}={_value_for_hydra(override, keys.annotation_of(names.schema, override.name))}"


def wrong_type(override: Override, kind: Any, choices: tuple[str, ...] = ()) -> ConfigError:
    """The error for a value that doesn't fit its key."""
    example = f"; set {override.name}.KEY=VALUE one by one" if dataclasses.is_dataclass(kind) else ""
    return ConfigError(f"{override.name}={override.value}: must be {keys.in_words(kind, choices)}{example}.")


def is_entry(name: str, schema: type) -> bool:
    """Whether `name` is, or lies in, a mapping to which users add entries, such as data.train."""
    parts = name.split(".")
    return any(keys.is_mapping(keys.annotation_of(schema, ".".join(parts[:end]))) for end in range(1, len(parts) + 1))


def _value_for_hydra(override: Override, kind: Any) -> str:
    value = override.value
    if keys.is_text(kind):
        return _quoted_text(value, optional=keys.is_optional(kind))
    if keys.is_list(kind) and not value.startswith("["):
        paths = override.name in LISTS_OF_PATHS or _INPUT_OF_SOURCE.fullmatch(override.name)
        parts = _paths(value) if paths else value.split(",")
        return f"[{','.join(_quoted_text(part, optional=False) for part in parts)}]"
    if keys.required(kind) is int and _ROUND_FLOAT.fullmatch(value) and float(value).is_integer():
        return str(int(float(value)))
    if value.startswith("{"):
        value = _with_round_numbers(value, typing.get_args(kind)[1] if keys.is_mapping(kind) else kind)
    no_bool = kind is bool and value.lower() not in ("true", "false", "yes", "no", "on", "off", "1", "0")
    no_mapping = (dataclasses.is_dataclass(kind) or keys.is_mapping(kind)) and not value.startswith("{")
    if (no_bool or no_mapping) and "${" not in value:
        raise wrong_type(override, kind)
    return value


def _with_round_numbers(value: str, kind: Any) -> str:
    """A mapping as it was typed, in which `from_tokens: 1e9` is an integer, for fields of `kind` that are such."""
    if not dataclasses.is_dataclass(kind):
        return value

    def as_integer(field: re.Match[str]) -> str:
        name, between, number = field.groups()
        whole = keys.required(keys.annotation_of(typing.cast(type, kind), name)) is int and float(number).is_integer()
        return f"{name}{between}{int(float(number))}" if whole else field[0]

    return _ROUND_FIELD.sub(as_integer, value)


def _paths(value: str) -> list[str]:
    """The paths in `a,b,c`: what stands on both sides of a comma is one path where that is there as a whole.

    ConfigError where the pieces are there, too.
    """
    if re.fullmatch(r"""(['"])[^'"]*\1""", value):
        return [value]
    parts, found, first = _COMMA.split(value), list[str](), 0
    while first < len(parts):
        last = next((n for n in range(len(parts), first + 1, -1) if _is_there(",".join(parts[first:n]))), first + 1)
        whole = ",".join(parts[first:last])
        if last > first + 1 and all(_is_there(part) for part in parts[first:last]):
            pieces = ",".join(f'"{part}"' for part in parts[first:last])
            raise ConfigError(
                f"data.input={whole}: is it one path or several? "
                f"""Write 'data.input=["{whole}"]' or 'data.input=[{pieces}]'."""
            )
        found.append(whole)
        first = last
    return found


def _is_there(path: str) -> bool:
    """Whether there is such a file or folder, or for a glob the folder that it starts from."""
    plain = re.split(r"[^/]*[*?\[]", path, maxsplit=1)[0]
    return bool(plain) and "," not in path[len(plain) :] and os.path.exists(os.path.expanduser(plain))


def _check_choice(override: Override, names: Names) -> None:
    known = groups.choices(override.name, names.folders)
    if override.prefix == "~":
        raise ConfigError(f"{override}: a group can't be removed; choose another of {', '.join(known)}.")
    if override.value in known or (
        override.value == "null" and override.name in groups.default_choices(names.verb.name)
    ):
        return
    if override.value.startswith("{"):
        raise ConfigError(f"{override}: {override.name}=… names a file; set its keys by {override.name}.KEY=VALUE.")
    near = keys.nearest(override.value, known)
    hint = f"did you mean {override.name}={near}?" if near else f"--config-dir DIR looks in DIR/{override.name}/ too."
    raise ConfigError(f"{override}: no such choice among {', '.join(known) or 'none'}; {hint}")


def _meant_choice(text: str, names: Names) -> str:
    for group in groups.default_choices(names.verb.name):
        if text in groups.choices(group, names.folders):
            return f"; did you mean {group}={text}?"
    near = keys.nearest(text, names.candidates(text))
    return f"; did you mean {near}=…?" if near else "."


def _quoted_text(value: str, *, optional: bool) -> str:
    """Text in quotes, unless it has them, holds an interpolation or is the null of an optional key."""
    if _QUOTED.fullmatch(value) or (optional and value == "null"):
        return value
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=value, quote=Quote.single).with_quotes()


def unquoted(value: str) -> str:
    """Text without the quotes around it."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def split_verbatim(overrides: Iterable[Override]) -> tuple[list[Override], dict[str, str]]:
    """Overrides that Hydra may read, and the values by key that it may not."""
    read: list[Override] = []
    taken: dict[str, str] = {}
    for override in overrides:
        if override.name in VERBATIM or override.name.startswith(SPACE):
            taken[override.name] = override.value
        else:
            read.append(override)
    return read, taken
