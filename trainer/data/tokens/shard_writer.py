"""Writes a token shard: a WebDataset tar of blocks, and its index."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from trainer.data.tokens.block_members import KINDS, kinds_named
from trainer.data.tokens.blocks import Block
from trainer.data.tokens.manifest import PlainContent, Shard
from trainer.data.tokens.shard_index import (
    DOCUMENTS,
    LENGTH_TYPE,
    MEMBERS,
    TARGETS,
    TOKENS,
    as_index,
    hash_index,
    write_index,
)
from trainer.data.tokens.tars import END, header, padding
from trainer.machine.durable import replacing
from trainer.machine.sealing.plaintext import is_sealed, stored_sha256


def write_shard(path: Path, blocks: Iterable[Block], *, dtype: str, scratch: Path | None = None) -> Shard:
    """Writes a tar and its index, each atomically (by way of the folder `scratch`); equal blocks give equal tars.

    All blocks say which tokens are targets, or none does; all have the same members, of the same widths.
    """
    number = path.stem.removeprefix("shard-")
    rows: list[list[int]] = []
    text_bytes, targets = 0, 0
    widths: dict[str, int] = {}
    has_targets = False
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
            has_targets = block.targets is not None
            if block.targets is not None:
                targets += int(block.targets.sum())
                rows[-1].append(tar.add_array(f"{key}.{TARGETS}", np.packbits(block.targets, bitorder="little")))
            found = {kind.name: block.members[kind.name].shape[1] for kind in kinds_named(block.members)}
            if rows[:-1] and found != widths:
                raise ValueError(f"{path}: a block with the members {found} after one with {widths}")
            widths = found
            for name in widths:
                numbers = block.members[name].astype(KINDS[name].of(np.dtype(dtype)), copy=False)
                rows[-1].append(tar.add_array(f"{key}.{name}.npy", numbers.reshape(-1)))
        tar.finish()
    index = as_index(rows)
    write_index(path, index, scratch=scratch)
    plain = PlainContent(tar.bytes, tar.hash.hexdigest())
    sealed = is_sealed(path)
    return Shard(
        file=path.name,
        bytes=path.stat().st_size if sealed else plain.bytes,
        sha256=stored_sha256(path) if sealed else plain.sha256,
        tokens=int(index[:, TOKENS].sum()),
        documents=int(index[:, DOCUMENTS].sum()),
        text_bytes=text_bytes,
        index_sha256=hash_index(index),
        targets=targets if has_targets else None,
        members=widths,
        plain=plain if sealed else None,
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
