"""JSON of others: bounded, and each field of the type that the format says, or a line that names it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest

from trainer.machine.json_file import Count, Malformed, Sha256, from_json, parse_json, read_json


@dataclass(frozen=True)
class Inner:
    size: Count
    hash: Sha256 = "0" * 64


@dataclass(frozen=True)
class Outer:
    name: str
    inner: tuple[Inner, ...]
    rate: float = 1.0
    by_name: dict[str, int] | None = None
    flag: bool = False
    rest: Any = None


GOOD = {"name": "x", "inner": [{"size": 1}, {"size": 2, "hash": "a" * 64}], "by_name": {"a": 1}, "rest": [{}]}


def error_line(act, *arguments):
    with pytest.raises(Malformed) as error:
        act(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_dataclass_is_read_with_its_inner_ones():
    found = from_json(Outer, GOOD)
    assert found == Outer("x", (Inner(1), Inner(2, "a" * 64)), by_name={"a": 1}, rest=[{}])
    assert from_json(Outer, {**GOOD, "rate": 2}).rate == 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name: None is no text"),
        ({"name": ["x"]}, "name: a list is no text"),
        ({"inner": {}}, "inner: an object is no list"),
        ({"inner": [{"size": 1}, {}]}, "inner[1]: size is missing"),
        ({"inner": [{"size": True}]}, "inner[0].size: True is no whole number"),
        ({"inner": [{"size": 1.0}]}, "inner[0].size: 1.0 is no whole number"),
        ({"inner": [{"size": -1}]}, "inner[0].size: -1 is not within 0 and"),
        ({"inner": [{"size": 2**63}]}, "inner[0].size: 9223372036854775808 is not within"),
        ({"inner": [{"size": 1, "hash": "A" * 64}]}, "inner[0].hash: 'AAA"),
        ({"rate": float("nan")}, "rate: nan is no number"),
        ({"rate": 10**400}, "rate: 1000"),
        ({"by_name": {"a\nb": "1"}}, r"by_name['a\nb']: '1' is no whole number"),
        ({"flag": 1}, "flag: 1 is neither true nor false"),
        ({"\x1b[2Jother": 1}, r"'\x1b[2Jother' isn't known"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change, message):
    assert error_line(from_json, Outer, {**GOOD, **change}).startswith(message)


@pytest.mark.parametrize("value", [None, [], 3, "x"])
def test_no_object_is_refused(value):
    assert "is no object" in error_line(from_json, Outer, value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b"[" * 100_000, "nested"),
        (b"[" * 100 + b"]" * 100, "nested"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested"),
        (b"1" * 5000, "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
    ],
)
def test_what_is_no_json_is_refused(content, message):
    assert message in error_line(parse_json, content)


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"[1, 2]")
    assert read_json(path) == [1, 2]
    assert "larger than 5 bytes" in error_line(lambda: read_json(path, most_bytes=5))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "fifo", "zero"):
        assert "regular file" in error_line(read_json, tmp_path / name)
    assert "symbolic links" in error_line(read_json, tmp_path / "loop")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nothing")
