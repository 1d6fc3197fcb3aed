"""The index of a tar of documents: `shard-000000.index`, an .npy of int64 (columns, documents), columns as below.

ENDS are the prefix sums of the documents' tokens: which document holds token n is a binary search in them, over a map
of the file. Others may have written an index: the manifest has its sha256, and what it points to must lie in the tar.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np

from trainer.data.tokens.npy import MOST_HEADER_BYTES, read_header
from trainer.data.tokens.open_files import OpenFile
from trainer.errors import InputError
from trainer.machine.durable import replacing
from trainer.machine.json_file import Malformed

COLUMNS = (
    "ends",  # tokens of the tar up to the document's end, its end-of-text token included where it is text
    "offset",  # of what is read, in the tar
    "bytes",  # of it
    "kind",  # how it is read: members.py
    "record",  # number among the tar's records
    "text_bytes",  # of the document in UTF-8; 0 where tokens are stored
    "text_high",  # xxh3-128 of the text, or of the stored ids as little-endian uint32
    "text_low",
    "ids",  # xxh3-64 of the ids as little-endian uint32, without end of text
)
ENDS, OFFSET, BYTES, KIND, RECORD, TEXT_BYTES, TEXT_HIGH, TEXT_LOW, IDS = range(len(COLUMNS))
COLUMN_TYPE = np.dtype("<i8")
PIECE_ROWS = 2**16
SIGN = 2**63


def as_signed(word: int) -> int:
    """A 64-bit word as int64 has it."""
    return word - 2 * SIGN if word >= SIGN else word


@dataclass
class ColumnWriter:
    """Rows of an index as they are found, 72 bytes a document."""

    pieces: list[np.ndarray] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    tokens: int = 0

    def add(self, tokens: int, *values: int) -> None:
        """A document of so many tokens; `values` are the columns after ENDS."""
        self.tokens += tokens
        self.rows.append([self.tokens, *values])
        if len(self.rows) == PIECE_ROWS:
            self._close_piece()

    def write(self, path: Path, scratch: Path) -> str:
        """Writes the index, atomically; its sha256."""
        self._close_piece()
        count = sum(len(piece) for piece in self.pieces)
        digest = hashlib.sha256()
        with replacing(path, scratch=scratch) as file:
            for content in (_header(count), *(self._column(column) for column in range(len(COLUMNS)))):
                digest.update(content)
                file.write(content)
        return digest.hexdigest()

    def _column(self, column: int) -> bytes:
        return b"".join(np.ascontiguousarray(piece[:, column]).tobytes() for piece in self.pieces)

    def _close_piece(self) -> None:
        if self.rows:
            self.pieces.append(np.array(self.rows, COLUMN_TYPE))
            self.rows = []


def _header(documents: int) -> bytes:
    """What the file begins with."""
    header = BytesIO()
    described = {"descr": "<i8", "fortran_order": False, "shape": (len(COLUMNS), documents)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def index_bytes(documents: int) -> int:
    """The size of the index of so many documents."""
    return len(_header(documents)) + len(COLUMNS) * COLUMN_TYPE.itemsize * documents


def open_columns(file: OpenFile, *, sha256: str, documents: int, tokens: int, tar_bytes: int, most: int) -> np.ndarray:
    """The index in a mapped file, checked: (columns, documents) int64, read-only. `most` bytes are read at once.

    InputError where it isn't the one that the manifest describes.
    """
    path, mend = file.path, f'run "banyan data index {file.path.parent}".'
    try:
        content = file.content()
    except (OSError, ValueError) as error:  # an empty file can't be mapped
        raise InputError(f"{path}: the index can't be read ({error}); {mend}") from error
    if hashlib.sha256(content.data).hexdigest() != sha256:
        raise InputError(f"{path}: not the index that the manifest describes (its hash differs); {mend}")
    head = BytesIO(content[:MOST_HEADER_BYTES].tobytes())
    try:
        kind, shape = read_header(head, len(content))
    except Malformed as error:
        raise InputError(f"{path}: not an index of documents ({error}); {mend}") from error
    if kind != COLUMN_TYPE or shape != (len(COLUMNS), documents):
        raise InputError(f"{path}: {kind} {list(shape)} where {documents:,} documents were expected; {mend}")
    columns = content[head.tell() :].view(COLUMN_TYPE).reshape(shape)
    if documents:
        begins, sizes = columns[OFFSET], columns[BYTES]
        rising = columns[ENDS, 0] > 0 and bool((np.diff(columns[ENDS]) > 0).all())
        inside = min(begins.min(), sizes.min()) >= 0 and sizes.max() <= most and (begins + sizes).max() <= tar_bytes
        if not rising or columns[ENDS, -1] != tokens or not inside:
            raise InputError(f"{path}: it contradicts the manifest, or points outside the tar; {mend}")
    return columns
