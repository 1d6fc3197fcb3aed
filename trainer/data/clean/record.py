"""What cleaning did, kept beside the shards once prepare ends:

rejected/RULE.jsonl.zst      rejected documents with rule, value, limit, file and record: a sample, bounded by bytes
documents/NNNNNN.rows.zst    what became of each document that was read: OUTCOME, in source order
documents/NNNNNN.signals.zst with data.clean.signals: all values that rules decide by
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard

from trainer.config.clean import Clean
from trainer.data.packed_table import read_packed_table
from trainer.errors import InputError
from trainer.machine.durable import make_folder, replacing
from trainer.machine.sealing.plaintext import open_plaintext, read_plaintext

REJECTED, DOCUMENTS = "rejected", "documents"
OUTCOME = np.dtype(
    [
        ("source", "<i8"),
        ("record", "<i8"),  # in the work item's part of the source
        ("high", "<u8"),  # of the xxh3-128 of the text as it came
        ("low", "<u8"),
        ("new_high", "<u8"),  # of the text as it was left
        ("new_low", "<u8"),
        ("rule", "S56"),  # that rejected it; empty if it was kept
        ("value", "<f8"),
        ("limit", "<f8"),
    ]
)
CHARACTERS = "text.characters"  # signals beside those of stages: the length of a text as it came,
LEFT = "left.characters"  # and of what is left of it, white space at its ends aside
LEVEL = 3  # of zstd


def outcomes_path(folder: Path, item: int) -> Path:
    """What became of the documents of a work item."""
    return folder / f"cleaned-{item:06d}.rows"


def rejected_path(folder: Path, item: int) -> Path:
    """Rejected documents of a work item."""
    return folder / f"cleaned-{item:06d}.jsonl.zst"


def signals_path(folder: Path, item: int) -> Path:
    """Signals of the documents of a work item."""
    return folder / f"cleaned-{item:06d}.signals"


def write_cleaning_record(
    output: Path, partial: Path, records_before: Sequence[int], sources: Sequence[str], clean: Clean
) -> None:
    """Gathers what the work items left: `records_before` of each says how many records its source has before it."""
    make_folder(output / DOCUMENTS)
    for item, before in enumerate(records_before):
        rows = np.frombuffer(read_plaintext(outcomes_path(partial, item)), OUTCOME).copy()
        rows["record"] += before
        _write_packed(output / DOCUMENTS / f"{item:06d}.rows.zst", rows.tobytes(), partial)
        if clean.signals:
            packed = read_plaintext(signals_path(partial, item))
            _write_packed(output / DOCUMENTS / f"{item:06d}.signals.zst", packed, partial)
    kept = [(rejected_path(partial, item), before) for item, before in enumerate(records_before)]
    write_rejected(output, partial, kept, sources, clean.rejected_bytes)


def packed_table(names: Sequence[str], table: np.ndarray) -> bytes:
    """Signals as they are stored: a line of names as JSON, then float64 (documents, names)."""
    return json.dumps(list(names)).encode() + b"\n" + table.astype("<f8").tobytes()


def _write_packed(path: Path, content: bytes, scratch: Path) -> None:
    with replacing(path, scratch=scratch) as file:
        file.write(zstandard.ZstdCompressor(level=LEVEL).compress(content))


def write_rejected(
    output: Path, scratch: Path, kept: Sequence[tuple[Path, int]], sources: Sequence[str], most_bytes: int
) -> None:
    """A file for each rule, of documents in source order, up to `most_bytes` of text.

    `kept` are the files that the work items left, and how many records come before those of each in its source.
    """
    make_folder(output / REJECTED)
    used: Counter[str] = Counter()
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for packed, before in kept:
            with zstandard.open(open_plaintext(packed), "rb") as lines:
                for line in lines.read().splitlines():
                    entry = json.loads(line)
                    rule, size = entry["rule"], len(entry["text"].encode("utf-8"))
                    if used[rule] and used[rule] + size > most_bytes:
                        continue
                    used[rule] += size
                    entry["record"] += before
                    entry["source"] = sources[entry["source"]]
                    if rule not in files:
                        path = output / REJECTED / f"{rule}.jsonl.zst"
                        plain = stack.enter_context(replacing(path, scratch=scratch))
                        packer = zstandard.ZstdCompressor(level=LEVEL)
                        files[rule] = stack.enter_context(packer.stream_writer(plain, closefd=False))
                    files[rule].write(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")


def read_outcomes(output: Path) -> Iterator[np.ndarray]:
    """What became of each document that was read: OUTCOME rows, file by file. InputError where a file is damaged."""
    for path in sorted((output / DOCUMENTS).glob("*.rows.zst")):
        yield read_packed_table(path, OUTCOME)


def read_signals(output: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """The signals of the documents, file by file: their names, and float64 (documents, names)."""
    for path in sorted((output / DOCUMENTS).glob("*.signals.zst")):
        yield _read_table(path)


def read_item(output: Path, item: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """What became of the documents of a work item, and their signals."""
    rows = read_packed_table(output / DOCUMENTS / f"{item:06d}.rows.zst", OUTCOME)
    path = output / DOCUMENTS / f"{item:06d}.signals.zst"
    names, table = _read_table(path)
    if len(rows) != len(table):
        raise InputError(f"{path}: {len(table):,} documents of {len(rows):,}; prepare the data again.")
    return rows, names, table


def _read_table(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with zstandard.open(open_plaintext(path), "rb") as file:
            head, _, content = file.read().partition(b"\n")
        names = json.loads(head)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names are no list of texts")
        return names, np.frombuffer(content, "<f8").reshape(-1, max(1, len(names)))
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise InputError(f"{path}: can't be read ({error}); prepare the data again.") from error
