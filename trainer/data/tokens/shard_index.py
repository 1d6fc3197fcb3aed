"""The index of a shard, by which any token is a slice away: where each block's members lie in the tar.

It is `shard-000000.index`, an .npy of int64 with a row for each block and the columns of `COLUMNS`, one more where
blocks say which tokens are targets, and one for each further member (block_members.KINDS), in that order. Others may
have written it: it is checked against the manifest, by its hash where there is one, else against the tar itself.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.data.tokens.block_members import KINDS, MOST_WIDTH, MemberKind, kinds_named
from trainer.data.tokens.manifest import Shard
from trainer.data.tokens.npy import read_header, read_npy
from trainer.data.tokens.tars import END, RECORD, Member, read_members
from trainer.errors import InputError
from trainer.machine.durable import replacing
from trainer.machine.json_file import Malformed
from trainer.machine.sealing.plaintext import open_plaintext

COLUMNS = ("tokens_offset", "tokens", "documents", "lengths_offset", "documents_offset", "documents_bytes")
TOKENS_OFFSET, TOKENS, DOCUMENTS, LENGTHS_OFFSET, DOCUMENTS_OFFSET, DOCUMENTS_BYTES = range(len(COLUMNS))
TARGETS_OFFSET = len(COLUMNS)  # of a shard with targets: the seventh column
MEMBERS = ("tokens.npy", "lengths.npy", "documents.jsonl")
TARGETS = "targets.npy"  # a bit for each token, least significant first
LENGTH_TYPE = np.dtype(np.uint32)
BITS_TYPE = np.dtype(np.uint8)
INDEX_TYPE = np.dtype(np.int64)
NPY_HEADER = 128  # bytes of the header of a 1-D .npy, as we write it
LEAST_BLOCK = len(MEMBERS) * RECORD  # bytes in a tar
SAMPLED_BLOCKS = 16  # of a shard, that are compared with the tar at first use where indices have no hashes


def index_path(tar: Path) -> Path:
    """Where the index of a tar is."""
    return tar.with_suffix(".index")


def write_index(tar: Path, index: np.ndarray, *, scratch: Path | None = None) -> None:
    """Writes the index of `tar` beside it, atomically: (blocks, 6 or more) int64, columns as in COLUMNS."""
    with replacing(index_path(tar), scratch=scratch) as file:
        np.save(file, index)


def hash_index(index: np.ndarray) -> str:
    """The sha256 of an index's numbers, as the manifest has it."""
    return hashlib.sha256(np.ascontiguousarray(index, "<i8").tobytes()).hexdigest()


def as_index(rows: list[list[int]]) -> np.ndarray:
    """Rows of numbers as an index: (blocks, 6) int64, or more columns with targets and other members."""
    return np.array(rows, INDEX_TYPE).reshape(len(rows), len(rows[0]) if rows else len(COLUMNS))


def mask_bytes(tokens: Any) -> Any:
    """Bytes that hold a bit for each token; of a number of tokens, or an array of numbers."""
    return -(-tokens // 8)


def build_index(tar: Path, dtype: str) -> np.ndarray:
    """The index of a tar, from its headers alone: (blocks, 6 or more) int64. InputError unless it is whole and ours."""
    widths: dict[str, int] = {}
    with open_plaintext(tar) as opened:
        return as_index([_row(tar, opened, members, np.dtype(dtype), widths) for members in _blocks(tar, opened)])


def _row(tar: Path, file: BinaryIO, members: list[Member], kind: np.dtype, widths: dict[str, int]) -> list[int]:
    """A block's row of the index, as its .npy headers tell. `widths` of members are the first block's."""
    tokens, lengths, documents, *more = members
    tokens_offset, token_count = _array_place(tar, file, tokens, kind)
    lengths_offset, document_count = _array_place(tar, file, lengths, LENGTH_TYPE)
    row = [tokens_offset, token_count, document_count, lengths_offset, documents.offset, documents.bytes]
    for member in more:
        name = member.name.partition(".")[2]
        if name == TARGETS:
            offset, size = _array_place(tar, file, member, BITS_TYPE)
            if size != mask_bytes(token_count):
                raise InputError(
                    f"{tar}: {member.name} has {size:,} bytes for {token_count:,} tokens; prepare it again."
                )
        else:
            extra = KINDS[name.removesuffix(".npy")]
            offset, size = _array_place(tar, file, member, extra.of(kind))
            count = extra.count(token_count, document_count)
            width = widths.setdefault(extra.name, size // max(1, count))
            if size != width * count or not 1 <= width <= MOST_WIDTH:
                raise InputError(f"{tar}: {member.name} has {size:,} numbers for {count:,} rows; prepare it again.")
        row.append(offset)
    return row


def _blocks(tar: Path, file: BinaryIO) -> Iterator[list[Member]]:
    """The blocks of a tar: the members in the order of MEMBERS, then targets and others, the same in all blocks."""
    members = list(read_members(tar, file))
    more = (TARGETS, *(f"{name}.npy" for name in KINDS))
    key = members[0].name.partition(".")[0] if members else ""
    of_first = {member.name for member in members[: len(MEMBERS) + len(more)]}
    wanted = (*MEMBERS, *(name for name in more if f"{key}.{name}" in of_first))
    for first in range(0, len(members), len(wanted)):
        block = members[first : first + len(wanted)]
        key = block[0].name.partition(".")[0]
        names = [member.name for member in block]
        if names != [f"{key}.{member}" for member in wanted]:
            raise InputError(
                f"{tar}: {', '.join(names)} is no block of tokens, lengths and documents; prepare it again."
            )
        yield block


def _array_place(tar: Path, file: BinaryIO, member: Member, kind: np.dtype) -> tuple[int, int]:
    """Offset of a 1-D .npy's first element in the tar, and number of elements, which must be of `kind`."""
    file.seek(member.offset)
    try:
        found, shape = read_header(file, member.bytes)
    except Malformed as error:
        raise InputError(f"{tar}: {member.name}: {error}; prepare it again.") from error
    if found != kind or len(shape) != 1:
        raise InputError(f"{tar}: {member.name} holds {len(shape)}-D {found}, not 1-D {kind}; prepare it again.")
    return file.tell(), shape[0]


def _follows_layout(index: np.ndarray, size: int, kind: np.dtype) -> bool:
    """Whether every offset is where `write_shard` puts it, given the counts and the tar's size in bytes."""

    def member(content: np.ndarray) -> np.ndarray:
        return RECORD + content + -content % RECORD

    tokens = member(NPY_HEADER + index[:, TOKENS] * kind.itemsize)
    lengths = member(NPY_HEADER + index[:, DOCUMENTS] * LENGTH_TYPE.itemsize)
    blocks = tokens + lengths + member(index[:, DOCUMENTS_BYTES])
    starts = np.cumsum(blocks) - blocks
    offsets = {
        TOKENS_OFFSET: starts + RECORD + NPY_HEADER,
        LENGTHS_OFFSET: starts + tokens + RECORD + NPY_HEADER,
        DOCUMENTS_OFFSET: starts + tokens + lengths + RECORD,
    }
    whole = int(blocks.sum()) + len(END) == size
    return whole and all(np.array_equal(index[:, column], offset) for column, offset in offsets.items())


def _has_headers(file: BinaryIO, row: np.ndarray, kind: np.dtype) -> bool:
    """Whether the headers before a block's members, of the tar and of .npy, tell of as much as its row of the index."""
    offsets = row[[TOKENS_OFFSET, LENGTHS_OFFSET, DOCUMENTS_OFFSET]].tolist()
    counts = row[[TOKENS, DOCUMENTS, DOCUMENTS_BYTES]].tolist()
    for name, offset, count, element in zip(MEMBERS, offsets, counts, (kind, LENGTH_TYPE, None), strict=True):
        size = count if element is None else NPY_HEADER + count * element.itemsize
        file.seek(offset - RECORD - (0 if element is None else NPY_HEADER))
        try:
            info = tarfile.TarInfo.frombuf(file.read(RECORD), "utf-8", "replace")
            if not info.name.endswith(name) or info.size != size:
                return False
            if element is not None and read_header(file, size) != (element, (count,)):
                return False
        except (tarfile.HeaderError, Malformed):
            return False
    return True


def open_index(folder: Path, shard: Shard, kind: np.dtype) -> np.ndarray:
    """The index of a shard of `folder`, checked: (blocks, 6 or more) int64. InputError unless it is this shard's."""
    index = _read_index(folder, shard, kind)
    if shard.index_sha256 is None and not _fits_tar(folder / shard.file, index, shard.content.bytes, kind):
        raise InputError(unfitting(folder, shard))
    return index


def _fits_tar(tar: Path, index: np.ndarray, size: int, kind: np.dtype) -> bool:
    """Compares an index without a hash with its tar: the layout of all blocks, and the headers of SAMPLED_BLOCKS.

    A tar of another layout, that somebody else has written, is compared whole.
    """
    if not _follows_layout(index, size, kind):
        return np.array_equal(build_index(tar, kind.name), index)
    stride = -(-len(index) // SAMPLED_BLOCKS) or 1
    with open_plaintext(tar) as file:
        return all(_has_headers(file, row, kind) for row in index[::stride])


def unfitting(folder: Path, shard: Shard) -> str:
    """The line that says that a shard's index isn't the tar's."""
    path = index_path(folder / shard.file)
    return f'{path}: the index doesn\'t fit {shard.file}; run "banyan data index {folder}".'


def _read_index(folder: Path, shard: Shard, kind: np.dtype) -> np.ndarray:
    """The index of a shard, checked against the manifest's counts and hash, and the file's size."""
    path = index_path(folder / shard.file)
    mend, size = f'run "banyan data index {folder}".', shard.content.bytes
    try:
        columns = len(COLUMNS) + (shard.targets is not None) + len(shard.members)
        index = read_npy(path, INDEX_TYPE, columns, most_rows=shard.content.bytes // LEAST_BLOCK)
    except FileNotFoundError as error:
        raise InputError(f"{path}: the index of {shard.file} is missing; {mend}") from error
    except OSError as error:
        raise InputError(f"{path}: the index of {shard.file} can't be read ({error.strerror}); {mend}") from error
    except Malformed as error:
        raise InputError(f"{path}: not an index of token shards ({error}); {mend}") from error
    if len(index) and (index.min() < 0 or index.max() > size or _ends(index, shard, kind).max() > size - RECORD):
        raise InputError(f"{path}: the index points outside {shard.file}; {mend}")
    for column, expected in ((TOKENS, shard.tokens), (DOCUMENTS, shard.documents)):
        found = int(index[:, column].sum())
        if found != expected:
            raise InputError(
                f"{path}: {found:,} {COLUMNS[column]} in the index, {expected:,} in the manifest for "
                f"{shard.file}; {mend}"
            )
    if shard.index_sha256 is not None and hash_index(index) != shard.index_sha256:
        raise InputError(f"{path}: not the index that was written with {shard.file} (its hash differs); {mend}")
    return index


def columns_of_members(shard: Shard) -> dict[str, tuple[MemberKind, int, int]]:
    """The further members of a shard by name: what they are, their widths, and their columns of the index."""
    first = len(COLUMNS) + (shard.targets is not None)
    kinds = kinds_named(shard.members)
    return {kind.name: (kind, shard.members[kind.name], first + number) for number, kind in enumerate(kinds)}


def _ends(index: np.ndarray, shard: Shard, kind: np.dtype) -> np.ndarray:
    """Where each member ends in the tar: (3 or more, blocks)."""
    ends = [
        index[:, TOKENS_OFFSET] + index[:, TOKENS] * kind.itemsize,
        index[:, LENGTHS_OFFSET] + index[:, DOCUMENTS] * LENGTH_TYPE.itemsize,
        index[:, DOCUMENTS_OFFSET] + index[:, DOCUMENTS_BYTES],
    ]
    if shard.targets is not None:
        ends.append(index[:, TARGETS_OFFSET] + mask_bytes(index[:, TOKENS]))
    for extra, width, column in columns_of_members(shard).values():
        rows = index[:, TOKENS if extra.by_token else DOCUMENTS]
        ends.append(index[:, column] + rows * width * extra.of(kind).itemsize)
    return np.stack(ends)
