"""Regions of a parameter are copied into one another whatever they were cut by."""

import itertools
import random

import pytest
import torch

from trainer.model.partition import Partition, Slice
from trainer.model.region import Region, copy, find_gap

SHAPES = {"v": (13,), "a.up_proj.weight": (6, 10), "a.down_proj.weight": (6, 10), "experts": (3, 4, 5)}


def regions(shape, dim, seed):
    """Random regions: of the whole, and of slices of `dim`."""
    draw = random.Random(seed)
    pieces = [None]
    for _ in range(2):
        start, stop = sorted(draw.sample(range(shape[dim] + 1), 2))
        pieces.append(Slice(dim, start, stop))
    for piece in pieces:
        full = Region.of_slice(shape, piece)
        yield full
        for _ in range(2):
            start, stop = sorted(draw.choices(range(full.count + 1), k=2))
            yield Region(shape, piece, start, stop)


@pytest.mark.parametrize(("shape", "dim"), [((13,), 0), ((6, 10), 0), ((6, 10), 1), ((3, 4, 5), 0), ((3, 4, 5), 1)])
def test_common_elements_are_copied_and_no_others(shape, dim):
    whole = torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)
    for seed in range(10):
        for target, source in itertools.product(regions(shape, dim, seed), repeat=2):
            stored, into = source.cut(whole).contiguous(), torch.zeros(target.count)
            copied = copy(target, into, source, lambda start, stop, stored=stored: stored[start:stop])
            wanted = target.cut(whole)
            common = torch.isin(wanted, stored)
            assert torch.equal(into, torch.where(common, wanted, 0.0))
            assert copied == int(common.sum())


def test_slices_of_all_ranks_make_the_whole():
    for name, degree in itertools.product(SHAPES, (1, 2, 3, 4)):
        slices = [Partition(SHAPES, rank, degree).slice_of(name) for rank in range(degree)]
        if slices[0] is None:
            assert degree == 1 or name in ("v", "experts")
            continue
        assert [piece.start for piece in slices] == [0, *(piece.stop for piece in slices[:-1])]
        assert slices[-1].stop == SHAPES[name][slices[0].dim]
        sizes = [piece.stop - piece.start for piece in slices]
        assert max(sizes) - min(sizes) <= 1


def test_heads_are_not_cut():
    shapes = {
        "a.self_attn.q_proj.weight": (18, 4),
        "a.self_attn.k_proj.bias": (6,),
        "a.self_attn.o_proj.weight": (4, 18),
    }
    first, second = (Partition(shapes, rank, 2, kv_heads=3) for rank in range(2))
    assert [first.slice_of(name) for name in shapes] == [Slice(0, 0, 12), Slice(0, 0, 4), Slice(1, 0, 12)]
    assert [second.slice_of(name) for name in shapes] == [Slice(0, 12, 18), Slice(0, 4, 6), Slice(1, 12, 18)]


def test_gaps_and_overlaps_are_found():
    def regions(*ranges, piece=None):
        return [Region((4, 6), piece, *span) for span in ranges]

    left, right = Slice(1, 0, 2), Slice(1, 2, 6)
    assert find_gap((4, 6), regions((10, 24), (0, 10))) is None
    assert find_gap((4, 6), regions((0, 8), piece=left) + regions((0, 9), (9, 16), piece=right)) is None
    assert find_gap((4, 6), regions((0, 10), (12, 24))) == "elements 10 to 12 of it are missing"
    assert find_gap((4, 6), regions((0, 12), (10, 24))) == "elements 10 to 12 of it are twice"
    assert find_gap((4, 6), regions((0, 20))) == "elements from 20 of it are missing"
    assert find_gap((4, 6), regions((0, 8), piece=left)) == "its slices don't make it whole"
    assert find_gap((4, 6), []) == "all of it is missing"
