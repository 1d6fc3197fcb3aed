"""Normal numbers for a matrix, tile by tile, so that a part of it costs little more than itself.

Each tile has a generator of its own, keyed by what the numbers are for and by the tile's place, and is always drawn
whole, also at an edge. The generator is numpy's Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011), about 90 million numbers a second and thread. torch's is four times as fast, but takes 32 bits of a
seed only, by which thousands of the four million tiles of a 70B model would be twins; and its `normal_` gives other
numbers on processors without AVX2, by which replicas drawn on unlike hosts would differ, for nobody broadcasts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from torch import Tensor

from trainer.model.region import Rectangle, Region

MOST_COLUMNS, MOST_ELEMENTS = 512, 2**14  # of a tile: column slices draw little too much, and each draw is long enough
TILES_FOR_THREADS = 64  # fewer aren't worth starting threads


@dataclass(frozen=True)
class Tiling:
    """Tiles of (height, width) that cover a matrix of (rows, columns), as wide as each other."""

    height: int
    width: int

    @staticmethod
    def of(columns: int) -> Tiling:
        """The tiling of matrices with so many columns."""
        width = -(-columns // -(-columns // MOST_COLUMNS))
        return Tiling(MOST_ELEMENTS // width, width)

    def cover(self, rectangle: Rectangle) -> Iterator[tuple[int, int]]:
        """The (row, column) of every tile that a rectangle touches."""
        for row in range(rectangle.top // self.height, -(-rectangle.bottom // self.height)):
            for column in range(rectangle.left // self.width, -(-rectangle.right // self.width)):
                yield row, column


def draw_normal(key: str, region: Region, std: float) -> Tensor:
    """Elements of a tensor of two dimensions or more, normal with `std` and mean 0: (region.count,) fp32 on the CPU.

    A function of (key, shape, std) and of the elements' places alone. A stack of matrices is one of all their rows.
    """
    drawn = torch.empty(region.count, dtype=torch.float32, device="cpu")
    tiling = Tiling.of(region.shape[-1])
    wanted: dict[tuple[int, int], list[Rectangle]] = {}
    for rectangle in rectangles_of(region):
        for place in tiling.cover(rectangle):
            wanted.setdefault(place, []).append(rectangle)

    def fill(place: tuple[int, int]) -> None:
        row, column = place
        tile = draw_tile(f"{key}/{row}/{column}", tiling, std)
        for rectangle in wanted[place]:
            _copy(tile, row * tiling.height, column * tiling.width, rectangle, drawn)

    threads = torch.get_num_threads()
    if threads == 1 or len(wanted) < TILES_FOR_THREADS:
        for place in wanted:
            fill(place)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, wanted))
    return drawn


def _copy(tile: Tensor, top: int, left: int, rectangle: Rectangle, into: Tensor) -> None:
    """Copies what a tile, whose first element is at (top, left), and a rectangle have in common."""
    first, last = max(top, rectangle.top), min(top + tile.shape[0], rectangle.bottom)
    begin, end = max(left, rectangle.left), min(left + tile.shape[1], rectangle.right)
    place = into.as_strided((last - first, end - begin), (rectangle.stride, 1), rectangle.place(first, begin))
    place.copy_(tile[first - top : last - top, begin - left : end - left])


def draw_tile(key: str, tiling: Tiling, std: float) -> Tensor:
    """A whole tile: (height, width) fp32."""
    generator = np.random.Generator(np.random.Philox(key=xxhash.xxh3_128_intdigest(key.encode())))
    return torch.from_numpy(generator.standard_normal((tiling.height, tiling.width), dtype=np.float32)).mul_(std)


def rectangles_of(region: Region) -> Iterator[Rectangle]:
    """The region in the matrix (product of all dimensions but the last, last dimension)."""
    rows, columns = math.prod(region.shape[:-1]), region.shape[-1]
    dim = region.slice.dim if region.slice else 0
    if dim == len(region.shape) - 1:
        yield from region.rectangles(dim)
        return
    width = math.prod(region.shape[dim:])
    for wide in region.rectangles(dim):  # its rows are flat ranges of the matrix
        for number in range(wide.bottom - wide.top):
            start = (wide.top + number) * width
            offset = wide.offset + number * wide.stride
            for part in Region((rows, columns), None, start + wide.left, start + wide.right).rectangles(1):
                yield Rectangle(part.top, part.bottom, part.left, part.right, offset + part.offset, part.stride)
