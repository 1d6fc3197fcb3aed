"""The settings of `banyan data labels FILE key=value …`, as typed and as a schema file has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.data.labels.agreement import DISTANCES
from trainer.data.labels.schema import KINDS, NAMES, ROLES, SCHEMES, Schema, check_schema
from trainer.errors import ConfigError, InputError
from trainer.machine.json_file import Malformed, from_json, read_json

LISTED = 20
USAGE = "banyan data labels FILE [gold=FILE] [schema=FILE] [key=value] …"
HELP = f"""usage: {USAGE}

FILE is JSON lines (also .gz, .zst), or a .csv or .tsv whose first row has the names.

  kind={"|".join(KINDS)}
                      by default the first record's fields tell it
  labels=a,b,c        the labels that are allowed; with scheme=bio the types of entities
  scheme={"|".join(SCHEMES)}      bio: tags are O, B-TYPE and I-TYPE, and I-TYPE goes on with what came before
  roles=a,b,c         the roles of messages ({",".join(ROLES)})
  FIELD=NAME          the file's name of a field: {", ".join(NAMES)}
  schema=FILE         the above as a JSON object of kind, labels, scheme, roles and names: {{"labels": ["pos", "neg"]}}
  gold=FILE           labels that are right: accuracy, precision, recall and F1
  distance={"|".join(DISTANCES)}  of Krippendorff's alpha; interval: labels are numbers
  list=N              disagreements and problems that are printed ({LISTED})
  json=FILE           all of it as JSON, too; json=- prints that instead

Exit code 2 if a record isn't as the schema says: a line for each.
"""


@dataclass(frozen=True)
class SchemaRecord:
    """A schema file."""

    kind: str | None = None
    labels: tuple[str, ...] | None = None
    scheme: str = "any"
    roles: tuple[str, ...] = ROLES
    names: dict[str, str] | None = None


@dataclass(frozen=True)
class LabelSettings:
    """What was asked for."""

    file: Path
    stated: SchemaRecord
    gold: Path | None = None
    distance: str = "nominal"
    listed: int = LISTED
    json: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """Our fields → the file's."""
        return self.stated.names or {}

    def schema(self, kind: str) -> Schema:
        """The schema of records of this kind. ConfigError where it can't be meant."""
        stated = self.stated
        schema = Schema(kind, stated.labels, stated.scheme, stated.roles, self.names)
        try:
            check_schema(schema)
        except Malformed as error:
            raise ConfigError(f"{error}; see banyan data labels --help.") from None
        return schema


def read_settings(arguments: list[str]) -> LabelSettings:
    """Settings as they were typed. ConfigError or InputError where one isn't known or can't be."""
    files = [argument for argument in arguments if "=" not in argument]
    typed: dict[str, str] = {}
    for argument in arguments:
        name, given, value = argument.partition("=")
        if given:
            if name in typed or not value:
                raise ConfigError(f"{argument}: give {name}=VALUE once.")
            typed[name] = value
    if len(files) != 1:
        raise ConfigError(f"{len(files)} files given; usage: {USAGE}.")
    stated = _read_schema(Path(typed.pop("schema"))) if "schema" in typed else SchemaRecord()
    own = {name: typed.pop(name) for name in ("gold", "distance", "list", "json") if name in typed}
    if own.get("distance", "nominal") not in DISTANCES:
        raise ConfigError(f"distance={own['distance']}: choose one of {', '.join(DISTANCES)}.")
    return LabelSettings(
        file=Path(files[0]).expanduser(),
        stated=_with_typed(stated, typed),
        gold=Path(own["gold"]).expanduser() if "gold" in own else None,
        distance=own.get("distance", "nominal"),
        listed=_count(own.get("list", str(LISTED))),
        json=own.get("json"),
    )


def _read_schema(path: Path) -> SchemaRecord:
    try:
        return from_json(SchemaRecord, read_json(path.expanduser()))
    except FileNotFoundError as error:
        raise InputError(f"schema={path}: no such file.") from error
    except Malformed as error:
        raise InputError(f"schema={path}: {error}; see banyan data labels --help.") from error


def _with_typed(stated: SchemaRecord, typed: dict[str, str]) -> SchemaRecord:
    """A schema, changed by what was typed; `label=stars` names a field, `labels=a,b` what may stand there."""
    names = dict(stated.names or {})
    lists: dict[str, tuple[str, ...] | None] = {"labels": stated.labels, "roles": stated.roles}
    plain = {"kind": stated.kind, "scheme": stated.scheme}
    for name, value in typed.items():
        if name in plain:
            plain[name] = value
        elif name in lists:
            lists[name] = tuple(part.strip() for part in value.split(",") if part.strip())
        elif name in NAMES:
            names[name] = value
        else:
            raise ConfigError(f"{name}={value}: no such setting; see banyan data labels --help.")
    return SchemaRecord(plain["kind"], lists["labels"], plain["scheme"] or "any", lists["roles"] or ROLES, names)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"list={text}: not a whole number.")
    return int(text)
