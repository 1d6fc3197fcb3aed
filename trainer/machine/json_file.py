"""JSON files that others may have written: a regular file of bounded size, fields checked by a dataclass.

shard = from_json(Shard, read_json(path))    # a ValueError says what is wrong, and where in the file
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from trainer.errors import InputError
from trainer.machine.sealing.plaintext import size_of, unsealed

T = TypeVar("T")
Check = Callable[[Any], Any]

MOST_BYTES = 64 * 2**20  # of a file that doesn't grow with the data
MOST_DEPTH = 64  # of lists and objects inside each other
SHOWN = 60  # characters of a wrong value


class Malformed(InputError, ValueError):
    """A value isn't what the format says; the message begins with where it stands, such as `shards[3].bytes`."""


@dataclass(frozen=True)
class Within:
    """Annotates a number: low to high, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class Matching:
    """Annotates a string: all of it matches a regular expression."""

    pattern: str


MOST = 2**53  # larger whole numbers aren't safe in every reader of JSON, and sums of two of them fit 64 bits
Count = Annotated[int, Within(0, MOST)]
Positive = Annotated[int, Within(1, MOST)]
Sha256 = Annotated[str, Matching("[0-9a-f]{64}")]
Xxh3 = Annotated[str, Matching("[0-9a-f]{32}")]


# ---------------------------------------------------------------------------------------------------------- files


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file to read its text, decrypted where it is encrypted (machine/sealing).

    OSError if that can't be, Malformed if it is a folder, a pipe or a device, KeyProblem without its key.
    """
    return unsealed(open_stored(path), path)


def open_stored(path: Path) -> io.BufferedReader:
    """As open_regular, what is on the disk: of an encrypted file that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # without a wait for a pipe's writer
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Malformed("not a regular file")
    return open(descriptor, "rb")


def require_regular(path: Path) -> None:
    """OSError if there is nothing, Malformed if it is a folder, a pipe or a device, which libraries would wait for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Malformed("not a regular file")


def read_regular(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a regular file. OSError if it can't be read, Malformed if it is something else or too large."""
    with open_regular(path) as file:
        size = size_of(file)
        if size > most_bytes:
            raise Malformed(f"larger than {most_bytes:,} bytes")
        return file.read(size)  # `read` makes room for as much as it is asked for


def read_json(path: Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """The value in a JSON file. FileNotFoundError if it isn't there; ValueError says what is wrong with it."""
    try:
        content = read_regular(path, most_bytes=most_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Malformed(str(error.strerror)) from error
    return parse_json(content)


def parse_json(content: bytes) -> Any:
    """The value of a JSON text: UTF-8, no name twice in an object, not deeper than MOST_DEPTH. Malformed otherwise."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
    except Malformed:
        raise
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise Malformed("too deeply nested") from None
    except ValueError as error:  # a number of thousands of digits, too
        raise Malformed(f"not JSON ({error})") from None
    _check_depth(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise Malformed(f"{shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return found


def _check_depth(value: Any) -> None:
    layer = [value]
    for _ in range(MOST_DEPTH):
        inside: list[Any] = []
        for each in layer:
            if isinstance(each, dict):
                inside.extend(each.values())
            elif isinstance(each, list):
                inside.extend(each)
        layer = [each for each in inside if isinstance(each, dict | list)]
        if not layer:
            return
    raise Malformed("too deeply nested")


def shown(value: Any) -> str:
    """A value of others in a line: short, and in ASCII."""
    text = (
        ascii(value) if not isinstance(value, dict | list) else ("an object" if isinstance(value, dict) else "a list")
    )
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


# --------------------------------------------------------------------------------------------------------- fields


def from_json(kind: type[T], value: Any) -> T:
    """`value`, as parsed, as a `kind`: a dataclass, whose fields' annotations say what may stand there.

    Known are int, float (finite), bool, str, None, Any, list[X], tuple[X, ...], dict[str, X], X | None, dataclasses,
    and Annotated with `Within` and `Matching`. Malformed where something is missing, of another type or out of bounds;
    a field with a default may be missing, and a name that isn't a field is refused.
    """
    try:
        return typing.cast(T, _check_of(typing.cast(Any, kind))(value))
    except Malformed as error:
        raise Malformed(str(error).lstrip(".: ")) from None


def from_known(kind: type[T], value: Any) -> T:
    """As from_json, of an object that may hold names that `kind` doesn't know: what later versions add."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known = {name: item for name, item in value.items() if name in names} if isinstance(value, dict) else value
    return from_json(kind, known)


@functools.cache
def _check_of(kind: Any) -> Check:
    """What turns a parsed value into a `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value: value
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Annotated:
        return _bounded(_check_of(arguments[0]), arguments[1:])
    if origin in (types.UnionType, typing.Union):
        return _optional(arguments)
    if origin in (list, tuple):
        return _each(origin, _check_of(arguments[0]))
    if origin is dict:
        return _mapping(_check_of(arguments[1]))
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast(type, kind))
    raise TypeError(f"{kind} is not a type that JSON is read as")


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise Malformed(f": {shown(value)} is no whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or abs(value) > 1e300 or not math.isfinite(value):
        raise Malformed(f": {shown(value)} is no number")
    return float(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise Malformed(f": {shown(value)} is neither true nor false")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise Malformed(f": {shown(value)} is no text")
    return value


def _none(value: Any) -> None:
    if value is not None:
        raise Malformed(f": {shown(value)} isn't null")


PLAIN: dict[Any, Check] = {int: _integer, float: _number, bool: _flag, str: _text, type(None): _none}


def _bounded(check: Check, limits: tuple[Any, ...]) -> Check:
    def bounded(value: Any) -> Any:
        found = check(value)
        for limit in limits:
            if isinstance(limit, Within) and not limit.low <= found <= limit.high:
                raise Malformed(f": {shown(found)} is not within {limit.low:,} and {limit.high:,}")
            if isinstance(limit, Matching) and not re.fullmatch(limit.pattern, found):
                raise Malformed(f": {shown(found)} doesn't look like {limit.pattern}")
        return found

    return bounded


def _optional(kinds: tuple[Any, ...]) -> Check:
    inner = [kind for kind in kinds if kind is not type(None)]
    if len(inner) != 1 or len(kinds) != 2:
        raise TypeError(f"{kinds}: of unions, JSON is read as X | None only")
    check = _check_of(inner[0])
    return lambda value: None if value is None else check(value)


def _each(origin: Callable[[list[Any]], Any], check: Check) -> Check:
    def each(value: Any) -> Any:
        if not isinstance(value, list):
            raise Malformed(f": {shown(value)} is no list")
        found: list[Any] = []
        try:
            for item in value:
                found.append(check(item))
        except Malformed as error:
            raise Malformed(f"[{len(found)}]{error}") from None
        return origin(found)

    return each


def _mapping(check: Check) -> Check:
    def mapping(value: Any) -> Any:
        found = {}
        for name, item in _object_of(value).items():
            try:
                found[name] = check(item)
            except Malformed as error:
                raise Malformed(f"[{shown(name)}]{error}") from None
        return found

    return mapping


def _dataclass(kind: type) -> Check:
    hints = typing.get_type_hints(kind, include_extras=True)
    checks = {field.name: _check_of(hints[field.name]) for field in dataclasses.fields(kind) if field.init}
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def build(value: Any) -> Any:
        given = _object_of(value)
        if not needed <= given.keys():
            raise Malformed(f": {', '.join(sorted(needed - given.keys()))} is missing")
        found = {}
        for name, item in given.items():
            if name not in checks:
                raise Malformed(f": {shown(name)} isn't known")
            try:
                found[name] = checks[name](item)
            except Malformed as error:
                raise Malformed(f".{name}{error}") from None
        return kind(**found)

    return build


def _object_of(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f": {shown(value)} is no object")
    return value
