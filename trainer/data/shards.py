"""Token shards: WebDataset tars of blocks of whole documents, with an index by which any token is a slice away.

A block is three members: `KEY.tokens.npy` (every document ends in the end-of-text token), `KEY.lengths.npy` (tokens
per document) and `KEY.documents.jsonl` (per document its source number, record, UTF-8 bytes and xxh3-128). The index,
`shard-000000.index`, is an .npy of int64 with a row for each block and the columns of `COLUMNS`.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from trainer.data.manifest import Manifest, Shard, datasets_in, read_manifest, write_manifest
from trainer.data.tars import END, RECORD, Member, header, padding, read_members
from trainer.data.tokenizer import sha256_of
from trainer.durable import replacing
from trainer.errors import InputError

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
NPY_HEADER = 4096  # bytes that surely hold the header of a 1-D .npy


@dataclass(frozen=True)
class Document:
    """Where a document came from: number of its source, record in it; size in UTF-8 bytes; xxh3-128 in hexadecimal."""

    source: int
    record: int
    bytes: int
    xxh3: str

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


def _as_index(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, len(COLUMNS))


# ------------------------------------------------------------------------------------------------------- the index


def build_index(tar: Path) -> np.ndarray:
    """The index of a tar, from its headers alone: (blocks, 6) int64. InputError unless the tar is whole and ours."""
    rows: list[list[int]] = []
    with open(tar, "rb") as file:
        for key, (tokens, lengths, documents) in _blocks(tar):
            tokens_offset, token_count, _ = _array_place(tar, file, tokens)
            lengths_offset, document_count, lengths_type = _array_place(tar, file, lengths)
            if lengths_type != LENGTH_TYPE:
                raise InputError(f"{tar}: {key}.lengths.npy holds {lengths_type}, not {LENGTH_TYPE}; prepare it again.")
            rows.append([tokens_offset, token_count, document_count, lengths_offset, documents.offset, documents.bytes])
    return _as_index(rows)


def _blocks(tar: Path) -> Iterator[tuple[str, list[Member]]]:
    """The blocks of a tar: key and the three members in the order of MEMBERS."""
    members = list(read_members(tar))
    for first in range(0, len(members), len(MEMBERS)):
        block = members[first : first + len(MEMBERS)]
        key = block[0].name.partition(".")[0]
        names = [member.name for member in block]
        if names != [f"{key}.{member}" for member in MEMBERS]:
            raise InputError(
                f"{tar}: {', '.join(names)} is no block of tokens, lengths and documents; prepare it again."
            )
        yield key, block


def _array_place(tar: Path, file: BinaryIO, member: Member) -> tuple[int, int, np.dtype]:
    """Offset of a 1-D .npy's first element in the tar, number of elements, and their type."""
    file.seek(member.offset)
    start = io.BytesIO(file.read(min(NPY_HEADER, member.bytes)))
    try:
        version = np.lib.format.read_magic(start)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        (count,), _, kind = read(start)
    except ValueError as error:
        raise InputError(f"{tar}: {member.name} is not a 1-D .npy array; prepare it again.") from error
    if start.tell() + count * kind.itemsize != member.bytes:
        raise InputError(f"{tar}: {member.name} has another size than its header says; prepare it again.")
    return member.offset + start.tell(), count, kind


# ---------------------------------------------------------------------------------------------------------- reading


class ShardReader:
    """A shard, memory-mapped at first use: any tokens, and the documents that they come from."""

    def __init__(self, folder: Path, shard: Shard, dtype: str) -> None:
        self.path = folder / shard.file
        self.tokens = shard.tokens
        self.dtype = np.dtype(dtype)
        self.index = _read_index(folder, shard, self.dtype)
        self._ends = np.cumsum(self.index[:, TOKENS])  # (blocks,): the token after each block
        self._starts = self._ends - self.index[:, TOKENS]
        self._bytes: np.ndarray | None = None

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
        return np.concatenate([np.empty(0, LENGTH_TYPE), *map(self._block_lengths, range(len(self.index)))])

    def documents(self, start: int, stop: int) -> list[DocumentSpan]:
        """The documents that hold any of the tokens [start, stop), in order."""
        spans = []
        for block in range(*self._blocks_of(start, stop)):
            ends = self._starts[block] + np.cumsum(self._block_lengths(block), dtype=np.int64)
            starts = ends - self._block_lengths(block)
            lines = self._block_lines(block)
            for place in np.flatnonzero((starts < stop) & (ends > start)).tolist():
                entry = json.loads(lines[place])
                spans.append(DocumentSpan(**entry, start=int(starts[place]), stop=int(ends[place])))
        return spans

    def block(self, number: int) -> Block:
        """A whole block; InputError where its documents.jsonl can't be read."""
        try:
            documents = [Document(**json.loads(line)) for line in self._block_lines(number)]
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.path}: block {number}: documents.jsonl is damaged; prepare it again.") from error
        return Block(self._block_tokens(number), self._block_lengths(number), documents)

    def close(self) -> None:
        """Lets go of the file; views that were read stay valid, and the next read opens it again."""
        self._bytes = None

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

    def _block_lines(self, block: int) -> list[bytes]:
        offset, size = self.index[block, [DOCUMENTS_OFFSET, DOCUMENTS_BYTES]].tolist()
        return self._slice(offset, size, np.dtype(np.uint8)).tobytes().splitlines()

    def _slice(self, offset: int, count: int, kind: np.dtype) -> np.ndarray:
        if self._bytes is None:
            with open(self.path, "rb") as file:
                self._bytes = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        return self._bytes[offset : offset + count * kind.itemsize].view(kind)


def _read_index(folder: Path, shard: Shard, kind: np.dtype) -> np.ndarray:
    """The index of a shard, checked against the manifest's counts and the file's size."""
    path = index_path(folder / shard.file)
    mend = f'run "banyan data index {folder}".'
    try:
        index = np.load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: the index of {shard.file} is missing; {mend}") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: the index of {shard.file} can't be read ({error}); {mend}") from error
    if index.dtype != np.int64 or index.ndim != 2 or index.shape[1] != len(COLUMNS):
        raise InputError(f"{path}: not an index of token shards; {mend}")
    for column, expected in ((TOKENS, shard.tokens), (DOCUMENTS, shard.documents)):
        found = int(index[:, column].sum())
        if found != expected:
            raise InputError(
                f"{path}: {found:,} {COLUMNS[column]} in the index, {expected:,} in the manifest for "
                f"{shard.file}; {mend}"
            )
    ends = np.stack(
        [
            index[:, TOKENS_OFFSET] + index[:, TOKENS] * kind.itemsize,
            index[:, LENGTHS_OFFSET] + index[:, DOCUMENTS] * LENGTH_TYPE.itemsize,
            index[:, DOCUMENTS_OFFSET] + index[:, DOCUMENTS_BYTES],
        ]
    )
    if len(index) and (index.min() < 0 or ends.max() > shard.bytes - RECORD):
        raise InputError(f"{path}: the index points outside {shard.file}; {mend}")
    return index


def open_shards(manifest: Manifest) -> list[ShardReader]:
    """Readers of all shards, in order, once every file is there with its size. (Hashes are `verify`'s business.)"""
    for shard in manifest.shards:
        path = manifest.folder / shard.file
        if not path.is_file():
            raise InputError(f"{path}: the shard is missing; fetch it, or prepare the data again.")
        if path.stat().st_size != shard.bytes:
            raise InputError(
                f"{path}: {path.stat().st_size:,} bytes, {shard.bytes:,} expected by the manifest: the shard is cut "
                "short or replaced; fetch it, or prepare the data again."
            )
    return [ShardReader(manifest.folder, shard, manifest.dtype) for shard in manifest.shards]


# ------------------------------------------------------------------------------------------------------- verifying


def verify(manifest: Manifest) -> list[str]:
    """Reads everything and compares it with the manifest; every problem is one line."""
    problems = []
    if not manifest.tokenizer_file.is_file():
        problems.append(f"{manifest.tokenizer_file}: missing; fetch it, or prepare the data again.")
    elif sha256_of(manifest.tokenizer_file) != manifest.tokenizer_sha256:
        problems.append(
            f"{manifest.tokenizer_file}: not the tokenizer of the manifest (sha256 differs); fetch it again."
        )
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
    if sha256_of(path) != shard.sha256:
        yield "sha256 differs from the manifest's: the file is damaged or replaced; fetch it, or prepare it again."
    built = build_index(path)
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
    if len(block.tokens) and int(block.tokens.max()) >= manifest.vocab_size:
        yield f"token {int(block.tokens.max())} is outside the vocabulary of {manifest.vocab_size:,}"
    ends = np.flatnonzero(block.tokens == manifest.end_of_text) + 1
    if not np.array_equal(ends, np.cumsum(block.lengths, dtype=np.int64)):
        yield "the end-of-text tokens aren't where the documents' lengths put them"
