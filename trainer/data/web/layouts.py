"""Published layouts: open_lm's and DCLM's manifest.jsonl, of the tars beside it and how many sequences each has."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.sources import Input
from trainer.errors import InputError
from trainer.machine.json_file import Malformed, parse_json

NAME = "manifest.jsonl"
MOST_BYTES = 2**28
COUNTS = ("num_sequences", "num_chunks")  # open_lm, now and before
_SHARD = re.compile(r"[^/\0]{1,255}")


@dataclass(frozen=True)
class NamedTars:
    """Inputs, of which some were named by a manifest: the records of each such tar by its address."""

    inputs: list[Input]
    expected: dict[str, int]


def with_manifests(inputs: list[Input]) -> NamedTars:
    """The inputs, with the tars that a manifest.jsonl names in its place. InputError where it is malformed."""
    found, expected = [], {}
    for entry in inputs:
        if entry.given.rpartition("/")[2] != NAME:
            found.append(entry)
            continue
        folder = entry.given.removesuffix(NAME)
        for shard, count in _read(entry):
            address = f"{folder}{shard}.tar"
            expected[address] = count
            found.append(replace(entry, given=address))
    return NamedTars(found, expected)


def _read(entry: Input) -> list[tuple[str, int]]:
    """The lines of a manifest: names without .tar, and records."""
    with open_file(entry.given) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"{entry}: larger than {MOST_BYTES:,} bytes: no manifest of tars.")
    named = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            value = parse_json(line) if line.strip() else None
        except Malformed as error:
            raise InputError(f"{entry}, line {number}: {error}.") from error
        if value is None:
            continue
        shard = value.get("shard") if isinstance(value, dict) else None
        counts = [value[key] for key in COUNTS if isinstance(value, dict) and type(value.get(key)) is int]
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or not counts or shard in (".", ".."):
            raise InputError(
                f'{entry}, line {number}: not {{"shard": NAME, "num_sequences": N}} with a tar beside it, as open_lm '
                f"and DCLM write it: {escape(line[:100].decode(errors='replace'))}"
            )
        named.append((shard.removesuffix(".tar"), counts[0]))
    if not named:
        raise InputError(f"{entry}: it names no tar.")
    return named
