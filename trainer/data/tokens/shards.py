"""Token shards: WebDataset tars of blocks of whole documents, with an index by which any token is a slice away.

A block is three members: `KEY.tokens.npy` (every document ends in the end-of-text token), `KEY.lengths.npy` (tokens
per document) and `KEY.documents.jsonl` (per document its source number, record, UTF-8 bytes and xxh3-128). The index,
`shard-000000.index`, is an .npy of int64 with a row for each block and the columns of `COLUMNS`.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from trainer.data.tokens.manifest import Manifest, Shard, datasets_in, read_manifest, write_manifest
from trainer.data.tokens.npy import read_header, read_npy
from trainer.data.tokens.open_files import OpenFile
from trainer.data.tokens.tars import END, RECORD, Member, header, padding, read_members
from trainer.data.tokens.tokenizer import sha256_of, tokenizer_sha256
from trainer.errors import InputError
from trainer.machine.durable import replacing
from trainer.machine.json_file import Count, Malformed, Xxh3, from_json, parse_json

__all__ = [
    "Block",
    "Document",
    "DocumentSpan",
    "Manifest",
    "Shard",
    "ShardReader",
    "build_index",
    "datasets_in",
    "index_path",
    "open_shards",
    "read_manifest",
    "verify",
    "write_index",
    "write_manifest",
    "write_shard",
]

COLUMNS = ("tokens_offset", "tokens", "documents", "lengths_offset", "documents_offset", "documents_bytes")
TOKENS_OFFSET, TOKENS, DOCUMENTS, LENGTHS_OFFSET, DOCUMENTS_OFFSET, DOCUMENTS_BYTES = range(len(COLUMNS))
MEMBERS = ("tokens.npy", "lengths.npy", "documents.jsonl")
LENGTH_TYPE = np.dtype(np.uint32)
INDEX_TYPE = np.dtype(np.int64)
NPY_HEADER = 128  # bytes of the header of a 1-D .npy, as we write it
LEAST_BLOCK = len(MEMBERS) * RECORD  # bytes in a tar
SAMPLED_BLOCKS = 256  # of a dataset, that are compared with the tars at every start where indices have no hashes


@dataclass(frozen=True)
class Document:
    """Where a document came from: number of its source, record in it; size in UTF-8 bytes; xxh3-128 in hexadecimal."""

    source: Count
    record: Count
    bytes: Count
    xxh3: Xxh3

    def line(self) -> str:
        """As a line of documents.jsonl."""
        return json.dumps({"source": self.source, "record": self.record, "bytes": self.bytes, "xxh3": self.xxh3}) + "\n"


@dataclass(frozen=True)
class DocumentSpan(Document):
    """A document and its tokens [start, stop) of the shard; the last one is the end-of-text token."""

    start: int
    stop: int


@dataclass(frozen=True)
class Block:
    """Whole documents: tokens (tokens,) with end-of-text ones, lengths (documents,) in tokens, and the documents."""

    tokens: np.ndarray
    lengths: np.ndarray
    documents: list[Document]


# ---------------------------------------------------------------------------------------------------------- writing


def write_shard(path: Path, blocks: Iterable[Block], *, dtype: str, scratch: Path | None = None) -> Shard:
    """Writes a tar and its index, each atomically (by way of the folder `scratch`); equal blocks give equal bytes."""
    number = path.stem.removeprefix("shard-")
    rows: list[list[int]] = []
    text_bytes = 0
    with replacing(path, scratch=scratch) as file:
        tar = _TarWriter(file)
        for block in blocks:
            key = f"{number}-{len(rows):08d}"
            lines = "".join(document.line() for document in block.documents).encode()
            tokens_offset = tar.add_array(f"{key}.{MEMBERS[0]}", block.tokens.astype(dtype, copy=False))
            lengths_offset = tar.add_array(f"{key}.{MEMBERS[1]}", block.lengths.astype(LENGTH_TYPE, copy=False))
            documents_offset = tar.add(f"{key}.{MEMBERS[2]}", lines)
            text_bytes += sum(document.bytes for document in block.documents)
            rows.append(
                [tokens_offset, len(block.tokens), len(block.lengths), lengths_offset, documents_offset, len(lines)]
            )
        tar.finish()
    index = _as_index(rows)
    write_index(path, index, scratch=scratch)
    return Shard(
        file=path.name,
        bytes=tar.bytes,
        sha256=tar.hash.hexdigest(),
        tokens=int(index[:, TOKENS].sum()),
        documents=int(index[:, DOCUMENTS].sum()),
        text_bytes=text_bytes,
        index_sha256=hash_index(index),
    )


class _TarWriter:
    """Appends members to a tar, hashing as it goes. (webdataset's TarWriter imports torch: seconds for each worker.)"""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.bytes = 0
        self.hash = hashlib.sha256()

    def add(self, name: str, *pieces: bytes | memoryview) -> int:
        """Adds a member made of `pieces`; returns the offset of the last piece."""
        size = sum(len(piece) for piece in pieces)
        self._write(header(name, size))
        for piece in pieces:
            offset = self.bytes
            self._write(piece)
        self._write(padding(size))
        return offset

    def add_array(self, name: str, array: np.ndarray) -> int:
        """Adds a 1-D array as .npy; returns the offset of its first element."""
        npy = io.BytesIO()
        np.lib.format.write_array_header_1_0(npy, np.lib.format.header_data_from_array_1_0(array))
        return self.add(name, npy.getvalue(), np.ascontiguousarray(array).data.cast("B"))

    def finish(self) -> None:
        """Ends the archive."""
        self._write(END)

    def _write(self, piece: bytes | memoryview) -> None:
        self.file.write(piece)
        self.hash.update(piece)
        self.bytes += len(piece)


def index_path(tar: Path) -> Path:
    """Where the index of a tar is."""
    return tar.with_suffix(".index")


def write_index(tar: Path, index: np.ndarray, *, scratch: Path | None = None) -> None:
    """Writes the index of `tar` beside it, atomically: (blocks, 6) int64, columns as in COLUMNS."""
    with replacing(index_path(tar), scratch=scratch) as file:
        np.save(file, index)


def hash_index(index: np.ndarray) -> str:
    """The sha256 of an index's numbers, as the manifest has it."""
    return hashlib.sha256(np.ascontiguousarray(index, "<i8").tobytes()).hexdigest()


def _as_index(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, INDEX_TYPE).reshape(-1, len(COLUMNS))


# ------------------------------------------------------------------------------------------------------- the index


def build_index(tar: Path, dtype: str) -> np.ndarray:
    """The index of a tar, from its headers alone: (blocks, 6) int64. InputError unless the tar is whole and ours."""
    with open(tar, "rb") as file:
        return _as_index([_row(tar, file, members, np.dtype(dtype)) for members in _blocks(tar)])


def _row(tar: Path, file: BinaryIO, members: list[Member], kind: np.dtype) -> list[int]:
    """A block's row of the index, as its .npy headers tell."""
    tokens, lengths, documents = members
    tokens_offset, token_count = _array_place(tar, file, tokens, kind)
    lengths_offset, document_count = _array_place(tar, file, lengths, LENGTH_TYPE)
    return [tokens_offset, token_count, document_count, lengths_offset, documents.offset, documents.bytes]


def _blocks(tar: Path) -> Iterator[list[Member]]:
    """The blocks of a tar: the three members in the order of MEMBERS."""
    members = list(read_members(tar))
    for first in range(0, len(members), len(MEMBERS)):
        block = members[first : first + len(MEMBERS)]
        key = block[0].name.partition(".")[0]
        names = [member.name for member in block]
        if names != [f"{key}.{member}" for member in MEMBERS]:
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


# ---------------------------------------------------------------------------------------------------------- reading


class ShardReader:
    """A shard, memory-mapped when it is used: any tokens, and the documents that they come from."""

    def __init__(self, folder: Path, shard: Shard, dtype: str) -> None:
        self.path = folder / shard.file
        self.tokens = shard.tokens
        self.dtype = np.dtype(dtype)
        self.index = _read_index(folder, shard, self.dtype)
        self._size = shard.bytes
        self._file = OpenFile(self.path)
        weakref.finalize(self, self._file.close)
        self._ends = np.cumsum(self.index[:, TOKENS])  # (blocks,): the token after each block
        self._starts = self._ends - self.index[:, TOKENS]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop), (stop - start,) in the shard's dtype; perhaps a read-only view of the file."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"{self.path}: tokens [{start}, {stop}) of {self.tokens}")
        first, last = self._blocks_of(start, stop)
        if last - first == 1:
            return self._block_tokens(first)[start - self._starts[first] : stop - self._starts[first]]
        if first == last:
            return np.empty(0, self.dtype)
        joined = np.concatenate([self._block_tokens(block) for block in range(first, last)])
        return joined[start - self._starts[first] : stop - self._starts[first]]

    def lengths(self) -> np.ndarray:
        """Tokens of each document, end-of-text included: (documents,) uint32."""
        return np.concatenate([np.empty(0, LENGTH_TYPE), *map(self._checked_lengths, range(len(self.index)))])

    def documents(self, start: int, stop: int) -> list[DocumentSpan]:
        """The documents that hold any of the tokens [start, stop), in order."""
        spans = []
        for block in range(*self._blocks_of(start, stop)):
            lengths = self._checked_lengths(block)
            ends = self._starts[block] + np.cumsum(lengths, dtype=np.int64)
            starts = ends - lengths
            lines = self._block_lines(block)
            for place in np.flatnonzero((starts < stop) & (ends > start)).tolist():
                document = self._document(block, lines[place] if place < len(lines) else b"")
                spans.append(DocumentSpan(**vars(document), start=int(starts[place]), stop=int(ends[place])))
        return spans

    def block(self, number: int) -> Block:
        """A whole block; InputError where its documents.jsonl can't be read."""
        documents = [self._document(number, line) for line in self._block_lines(number)]
        return Block(self._block_tokens(number), self._block_lengths(number), documents)

    def _document(self, block: int, line: bytes) -> Document:
        try:
            return from_json(Document, parse_json(line))
        except Malformed as error:
            raise InputError(
                f"{self.path}: block {block}: documents.jsonl is damaged ({error}); prepare it again."
            ) from error

    def close(self) -> None:
        """Lets go of the file; views that were read stay valid, and the next read opens it again."""
        self._file.close()

    def _blocks_of(self, start: int, stop: int) -> tuple[int, int]:
        """The blocks [first, last) that hold the tokens [start, stop)."""
        if start >= stop:
            return 0, 0
        return int(self._ends.searchsorted(start, side="right")), int(self._starts.searchsorted(stop))

    def _block_tokens(self, block: int) -> np.ndarray:
        row = self.index[block]
        return self._slice(int(row[TOKENS_OFFSET]), int(row[TOKENS]), self.dtype)

    def _block_lengths(self, block: int) -> np.ndarray:
        offset, count = self.index[block, [LENGTHS_OFFSET, DOCUMENTS]].tolist()
        return self._slice(offset, count, LENGTH_TYPE)

    def _checked_lengths(self, block: int) -> np.ndarray:
        """The lengths of a block's documents. InputError unless they are its tokens, cut."""
        lengths = self._block_lengths(block)
        if lengths.sum(dtype=np.int64) != self.index[block, TOKENS] or not lengths.all():
            raise InputError(f"{self.path}: block {block}: the documents' lengths aren't its tokens; prepare it again.")
        return lengths

    def _block_lines(self, block: int) -> list[bytes]:
        offset, size = self.index[block, [DOCUMENTS_OFFSET, DOCUMENTS_BYTES]].tolist()
        return self._slice(offset, size, np.dtype(np.uint8)).tobytes().splitlines()

    def _slice(self, offset: int, count: int, kind: np.dtype) -> np.ndarray:
        content = self._file.content()
        if len(content) != self._size:
            raise InputError(f"{self.path}: it has changed since it was opened; start again.")
        return content[offset : offset + count * kind.itemsize].view(kind)


def _read_index(folder: Path, shard: Shard, kind: np.dtype) -> np.ndarray:
    """The index of a shard, checked against the manifest's counts and hash, the layout of tars, and the file's size."""
    path = index_path(folder / shard.file)
    mend = f'run "banyan data index {folder}".'
    try:
        index = read_npy(path, INDEX_TYPE, len(COLUMNS), most_rows=shard.bytes // LEAST_BLOCK)
    except FileNotFoundError as error:
        raise InputError(f"{path}: the index of {shard.file} is missing; {mend}") from error
    except OSError as error:
        raise InputError(f"{path}: the index of {shard.file} can't be read ({error.strerror}); {mend}") from error
    except Malformed as error:
        raise InputError(f"{path}: not an index of token shards ({error}); {mend}") from error
    if len(index) and (index.min() < 0 or index.max() > shard.bytes or _ends(index, kind).max() > shard.bytes - RECORD):
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


def _ends(index: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Where each member ends in the tar: (3, blocks)."""
    return np.stack(
        [
            index[:, TOKENS_OFFSET] + index[:, TOKENS] * kind.itemsize,
            index[:, LENGTHS_OFFSET] + index[:, DOCUMENTS] * LENGTH_TYPE.itemsize,
            index[:, DOCUMENTS_OFFSET] + index[:, DOCUMENTS_BYTES],
        ]
    )


def open_shards(manifest: Manifest) -> list[ShardReader]:
    """Readers of all shards, in order, once every file is there with its size and an index that fits it.

    Hashes of shards are `verify`'s business, and a run's (data.verify_bytes).
    """
    for shard in manifest.shards:
        path = manifest.folder / shard.file
        if not path.is_file():
            raise InputError(f"{path}: the shard is missing; fetch it, or prepare the data again.")
        if path.stat().st_size != shard.bytes:
            raise InputError(
                f"{path}: {path.stat().st_size:,} bytes, {shard.bytes:,} expected by the manifest: the shard is cut "
                "short or replaced; fetch it, or prepare the data again."
            )
    readers = [ShardReader(manifest.folder, shard, manifest.dtype) for shard in manifest.shards]
    if any(shard.index_sha256 is None for shard in manifest.shards):
        _check_sample(manifest, readers)
    return readers


def _check_sample(manifest: Manifest, readers: list[ShardReader]) -> None:
    """Compares indices without hashes with the tars: the layout of all blocks, and the headers of SAMPLED_BLOCKS.

    A tar of another layout, that somebody else has written, is compared whole.
    """
    stride = -(-sum(len(reader.index) for reader in readers) // SAMPLED_BLOCKS) or 1
    passed = 0
    for shard, reader in zip(manifest.shards, readers, strict=True):
        chosen = range(-passed % stride, len(reader.index), stride)
        passed += len(reader.index)
        if not _fits(reader, shard, chosen):
            raise InputError(unfitting(manifest, shard))


def _fits(reader: ShardReader, shard: Shard, chosen: Iterable[int]) -> bool:
    if not _follows_layout(reader.index, shard.bytes, reader.dtype):
        return np.array_equal(build_index(reader.path, reader.dtype.name), reader.index)
    with open(reader.path, "rb") as file:
        return all(_has_headers(file, reader.index[block], reader.dtype) for block in chosen)


def unfitting(manifest: Manifest, shard: Shard) -> str:
    """The line that says that a shard's index isn't the tar's."""
    path = index_path(manifest.folder / shard.file)
    return f'{path}: the index doesn\'t fit {shard.file}; run "banyan data index {manifest.folder}".'


# ------------------------------------------------------------------------------------------------------- verifying


def verify(manifest: Manifest) -> list[str]:
    """Reads everything and compares it with the manifest; every problem is one line."""
    problems = []
    try:
        if tokenizer_sha256(manifest.tokenizer_file) != manifest.tokenizer_sha256:
            problems.append(
                f"{manifest.tokenizer_file}: not the tokenizer of the manifest (sha256 differs); fetch it again."
            )
    except InputError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{manifest.tokenizer_file}: can't be read ({error.strerror}).")
    for shard in manifest.shards:
        try:
            for problem in _verify_shard(manifest, shard):
                problems.append(f"{manifest.folder / shard.file}: {problem}")
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{manifest.folder / shard.file}: can't be read ({error.strerror}).")
    return problems


def _verify_shard(manifest: Manifest, shard: Shard) -> Iterator[str]:
    path = manifest.folder / shard.file
    if not path.is_file():
        yield "the shard is missing; fetch it, or prepare the data again."
        return
    if path.stat().st_size != shard.bytes:
        yield f"{path.stat().st_size:,} bytes, {shard.bytes:,} expected by the manifest; fetch it again."
    elif sha256_of(path) != shard.sha256:
        yield "sha256 differs from the manifest's: the file is damaged or replaced; fetch it, or prepare it again."
    built = build_index(path, manifest.dtype)
    reader = ShardReader(manifest.folder, shard, manifest.dtype)
    if not np.array_equal(built, reader.index):
        yield f'the index doesn\'t fit the tar; run "banyan data index {manifest.folder}".'
        return
    text_bytes = 0
    for number in range(len(built)):
        block = reader.block(number)
        for problem in _block_problems(block, manifest):
            yield f"block {number}: {problem}; prepare it again."
        text_bytes += sum(document.bytes for document in block.documents)
    if text_bytes != shard.text_bytes:
        yield f"{text_bytes:,} bytes of text, {shard.text_bytes:,} expected by the manifest; prepare it again."


def _block_problems(block: Block, manifest: Manifest) -> Iterator[str]:
    if len(block.documents) != len(block.lengths):
        yield f"{len(block.documents):,} documents listed, {len(block.lengths):,} lengths"
    if block.lengths.sum(dtype=np.int64) != len(block.tokens):
        yield f"the lengths add up to {block.lengths.sum(dtype=np.int64):,}, but it holds {len(block.tokens):,} tokens"
    if any(not manifest.has_source(document.source) for document in block.documents):
        yield "a document comes from a source that manifest.json doesn't name"
    if len(block.tokens) and int(block.tokens.max()) >= manifest.vocab_size:
        yield f"token {int(block.tokens.max())} is outside the vocabulary of {manifest.vocab_size:,}"
    ends = np.flatnonzero(block.tokens == manifest.end_of_text) + 1
    if not np.array_equal(ends, np.cumsum(block.lengths, dtype=np.int64)):
        yield "the end-of-text tokens aren't where the documents' lengths put them"
