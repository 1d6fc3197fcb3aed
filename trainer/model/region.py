"""Which elements of a parameter a tensor holds: a flat range inside a tensor-parallel slice.

ZeRO cuts a parameter by flat ranges, tensor parallelism by slices, and both at once by ranges of slices. Any two
regions of a parameter, of whatever shapes of run, can be intersected here without building the whole parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from trainer.model.partition import Slice

# (parameter, kind, region) → 1-D fp32 tensor with the region's elements of that kind of the parameter
Source = Callable[[str, str, "Region"], torch.Tensor]
# [start, stop) → that part of a region's elements, 1-D and contiguous
Storage = Callable[[int, int], torch.Tensor]


@dataclass(frozen=True)
class Rectangle:
    """Rows and columns of a matrix, stored row by row `stride` apart, from `offset` on."""

    top: int
    bottom: int
    left: int
    right: int
    offset: int
    stride: int

    def place(self, row: int, column: int) -> int:
        """Where an element is stored."""
        return self.offset + (row - self.top) * self.stride + column - self.left


@dataclass(frozen=True)
class Region:
    """Elements [start, stop) of the flattened `slice` (None: all) of a parameter of `shape`."""

    shape: tuple[int, ...]
    slice: Slice | None
    start: int
    stop: int

    @staticmethod
    def of_slice(shape: tuple[int, ...], piece: Slice | None) -> Region:
        """All of a slice."""
        dim, width = (piece.dim, piece.stop - piece.start) if piece else (0, shape[0] if shape else 1)
        return Region(shape, piece, 0, math.prod(shape[:dim]) * width * math.prod(shape[dim + 1 :]))

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.stop - self.start

    def cut(self, whole: torch.Tensor) -> torch.Tensor:
        """The region's elements of a whole parameter, 1-D."""
        if self.slice is not None:
            whole = whole.narrow(self.slice.dim, self.slice.start, self.slice.stop - self.slice.start)
        return whole.reshape(-1)[self.start : self.stop]

    def span_in(self, piece: Slice | None) -> tuple[int, int]:
        """[start, stop) in the flattened `piece` (None: all), from the first to the last element common to both.

        (0, 0) if there is none. Two slices must be of the same dimension.
        """
        if piece == self.slice:
            return self.start, self.stop
        cut = self.slice or piece
        places: list[int] = []
        for to, of in _pairs(self, Region.of_slice(self.shape, piece), cut.dim if cut else 0):
            top, bottom = max(to.top, of.top), min(to.bottom, of.bottom)
            left, right = max(to.left, of.left), min(to.right, of.right)
            if top < bottom and left < right:
                places += [of.place(top, left), of.place(bottom - 1, right - 1)]
        return (min(places), max(places) + 1) if places else (0, 0)

    def rectangles(self, dim: int) -> list[Rectangle]:
        """The region in the matrix (product of the dimensions before `dim`, product of the rest): at most three."""
        inner = math.prod(self.shape[dim + 1 :])
        left, right = (self.slice.start, self.slice.stop) if self.slice else (0, self.shape[dim] if self.shape else 1)
        left, right = left * inner, right * inner
        width = right - left
        found = []
        at = self.start
        while at < self.stop:
            row, column = divmod(at, width)
            rows = (self.stop - at) // width if column == 0 else 0
            if rows:
                found.append(Rectangle(row, row + rows, left, right, at - self.start, width))
                at += rows * width
            else:
                run = min(self.stop - at, width - column)
                found.append(Rectangle(row, row + 1, left + column, left + column + run, at - self.start, width))
                at += run
        return found


def copy(target: Region, into: torch.Tensor, source: Region, stored: Storage) -> int:
    """Copies what two regions of one parameter have in common into `into`, which is 1-D; the number of elements."""
    piece = target.slice or source.slice
    copied = 0
    for to, of in _pairs(target, source, piece.dim if piece else 0):
        top, bottom = max(to.top, of.top), min(to.bottom, of.bottom)
        left, right = max(to.left, of.left), min(to.right, of.right)
        if top >= bottom or left >= right:
            continue
        size = (bottom - top, right - left)
        first = of.place(top, left)
        values = stored(first, of.place(bottom - 1, right - 1) + 1)
        place = into.as_strided(size, (to.stride, 1), into.storage_offset() + to.place(top, left))
        place.copy_(values.as_strided(size, (of.stride, 1), values.storage_offset()))
        copied += size[0] * size[1]
    return copied


def find_gap(shape: tuple[int, ...], regions: list[Region]) -> str | None:
    """Where regions leave out elements of a parameter, or hold them twice; None if each is there once."""
    by_slice: dict[Slice | None, list[Region]] = {}
    for region in regions:
        by_slice.setdefault(region.slice, []).append(region)
    for piece, held in by_slice.items():
        at = 0
        for region in sorted(held, key=lambda region: region.start):
            if region.start != at:
                low, high = sorted((at, region.start))
                return f"elements {low} to {high} of {piece or 'it'} are {'missing' if region.start > at else 'twice'}"
            at = region.stop
        if at != Region.of_slice(shape, piece).count:
            return f"elements from {at} of {piece or 'it'} are missing"
    slices = sorted((piece for piece in by_slice if piece is not None), key=lambda piece: piece.start)
    if not slices:
        return None if by_slice else "all of it is missing"
    edges = [(0, 0), *((piece.start, piece.stop) for piece in slices), (shape[slices[0].dim], 0)]
    whole = all(left[1] == right[0] for left, right in pairwise(edges))
    return None if whole and len(slices) == len(by_slice) else "its slices don't make it whole"


def _pairs(target: Region, source: Region, dim: int) -> Iterator[tuple[Rectangle, Rectangle]]:
    for to in target.rectangles(dim):
        for of in source.rectangles(dim):
            yield to, of
