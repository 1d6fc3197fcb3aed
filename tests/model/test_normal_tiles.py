"""Any part of a matrix is drawn alone, to the bit as it stands in the whole, and for little more than its own size."""

import math
import random

import pytest
import torch
import xxhash

from trainer.model import normal_tiles
from trainer.model.normal_tiles import MOST_ELEMENTS, Tiling, draw_normal, draw_tile
from trainer.model.partition import Slice
from trainer.model.region import Region

SHAPES = [(1, 1), (3, 5), (70, 40), (33, 700), (1000, 1), (5, 1025), (4, 30, 70), (3, 2, 20, 30)]


def whole(shape, key="key"):
    return draw_normal(key, Region.of_slice(shape, None), 0.5).view(shape)


def random_region(draw, shape):
    piece = None
    if draw.random() < 0.7:
        dim = draw.randrange(len(shape))
        start = draw.randrange(shape[dim])
        piece = Slice(dim, start, draw.randint(start + 1, shape[dim]))
    everything = Region.of_slice(shape, piece)
    start = draw.randrange(everything.count)
    return Region(shape, piece, start, draw.randint(start, everything.count))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_region_is_cut_from_the_whole(shape):
    draw, matrix = random.Random(str(shape)), whole(shape)
    for _ in range(60):
        region = random_region(draw, shape)
        assert torch.equal(draw_normal("key", region, 0.5), region.cut(matrix)), region


def test_threads_don_t_show(monkeypatch):
    shape = (300, 1200)
    alone = whole(shape)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(normal_tiles, "TILES_FOR_THREADS", 2)
    assert torch.equal(whole(shape), alone)


@pytest.mark.parametrize(
    ("piece", "most"),
    [
        (Slice(0, 512, 1024), 1.1),  # a row slice of a column-parallel layer
        (Slice(1, 1024, 1536), 1.1),  # a column slice of a row-parallel one
        (Slice(1, 1000, 1500), 2.2),
        (None, 1.1),
    ],
)
def test_what_is_drawn_is_little_more_than_what_is_asked_for(monkeypatch, piece, most):
    drawn = []

    def count(key, tiling, std):
        drawn.append(tiling.height * tiling.width)
        return torch.zeros(tiling.height, tiling.width)

    monkeypatch.setattr(normal_tiles, "draw_tile", count)
    region = Region.of_slice((4096, 4096), piece)
    draw_normal("key", region, 1.0)
    assert region.count <= sum(drawn) <= most * region.count


def test_a_flat_range_draws_the_tiles_that_it_touches(monkeypatch):
    """What ZeRO-3 leaves a rank."""
    drawn = []

    def count(key, tiling, std):
        drawn.append(key)
        return torch.zeros(tiling.height, tiling.width)

    monkeypatch.setattr(normal_tiles, "draw_tile", count)
    draw_normal("key", Region((4096, 4096), None, 5 * 4096 + 17, 30 * 4096 + 90), 1.0)
    assert sorted(drawn) == [f"key/0/{column}" for column in range(8)]


@pytest.mark.parametrize("columns", [1, 16, 511, 512, 513, 768, 4096, 151_936])
def test_tiles_are_of_a_size_and_waste_nothing(columns):
    tiling = Tiling.of(columns)
    assert MOST_ELEMENTS / 2 < tiling.height * tiling.width <= MOST_ELEMENTS
    assert math.ceil(columns / tiling.width) * tiling.width - columns < tiling.width // 2 + 1


def test_numbers_are_normal_and_tiles_differ():
    numbers = draw_normal("seed/name", Region.of_slice((2048, 1024), None), 2.0)
    ordered = (numbers / 2).sort().values.double()
    expected = (1 + torch.erf(ordered / math.sqrt(2))) / 2
    steps = torch.arange(len(ordered), dtype=torch.float64) / len(ordered)
    assert (expected - steps).abs().max() * math.sqrt(len(ordered)) < 1.63  # Kolmogorov-Smirnov, 1 %
    matrix, tiling = numbers.view(2048, 1024), Tiling.of(1024)
    blocks = [rows for part in matrix.split(tiling.height) for rows in part.split(tiling.width, dim=1)]
    first = torch.stack([block.reshape(-1)[:4096] for block in blocks if block.numel() >= 4096])
    correlation = torch.corrcoef(first) - torch.eye(len(first))
    assert correlation.abs().max() * math.sqrt(4096) < 4.5
    assert torch.linalg.svdvals(matrix[:512, :512]).max() / 2 / math.sqrt(512) == pytest.approx(2, rel=0.05)


def test_keys_that_agree_in_32_bits_of_their_hash_draw_other_numbers():
    """torch's generator takes no more of a seed: at 70B thousands of tiles would be twins."""
    found, tiling = {}, Tiling.of(512)
    for number in range(300_000):
        key = f"0/model.layers.0.mlp.up_proj.weight/{number}/0"
        other = found.setdefault(xxhash.xxh3_64_intdigest(key.encode()) & 0xFFFFFFFF, key)
        if other != key:
            assert not torch.equal(draw_tile(key, tiling, 1.0), draw_tile(other, tiling, 1.0))
            return
    raise AssertionError("no two such keys")


def test_no_number_begins_two_tiles():
    """Of several seeds (also beyond 32 bits), parameters and places."""
    heads = torch.cat(
        [
            whole((320, 2560), f"{seed}/{name}")[::32, ::512].flatten()
            for seed in (0, 1, 2**32, 2**64 + 1)
            for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight")
        ]
    )
    assert len(heads.unique()) == 4 * 3 * 10 * 5
