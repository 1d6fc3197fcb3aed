"""What is read of a shard, whatever it is: a tar of our own, or the index of one that others wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from trainer.data.tokens.blocks import Block, DocumentSpan


class TokenReader(Protocol):
    """A shard's tokens by their places, from 0; and the documents that they are of."""

    path: Path
    tokens: int
    dtype: np.dtype
    index: np.ndarray  # a row for each block

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop), (stop - start,)."""

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tokens [start, start + length) for each of `starts` (n,): (n, length), a copy."""

    def take(self, places: np.ndarray) -> np.ndarray:
        """The tokens at `places`, of any shape: the same shape, a copy."""

    def take_targets(self, places: np.ndarray) -> np.ndarray:
        """Whether the tokens at `places` are targets: the same shape, bool."""

    def take_by_token(self, name: str, places: np.ndarray) -> np.ndarray:
        """The numbers of a member for the tokens at `places`: (*places.shape, width)."""

    def take_by_document(self, name: str, documents: np.ndarray) -> np.ndarray:
        """The numbers of a member for documents by their number in the shard: (*documents.shape, width)."""

    def lengths(self) -> np.ndarray:
        """Tokens of each document: (documents,) uint32."""

    def ends_before(self, stop: int) -> np.ndarray:
        """Where the documents end that begin before token `stop`: (documents,) int64."""

    def documents(self, start: int, stop: int) -> list[DocumentSpan]:
        """The documents that hold any of the tokens [start, stop), in order."""

    def block(self, number: int) -> Block:
        """A whole block."""

    def close(self) -> None:
        """Lets go of what is open."""
