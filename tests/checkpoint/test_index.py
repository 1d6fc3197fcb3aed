"""The index: pieces that are alike become runs and lose nothing; any region is found in any layout."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.checkpoint.written import write_as_ranks
from tests.scale.large_run import KINDS, LargeRun
from trainer.checkpoint.data_file import group_of
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.index import LONGS, ORDER, WORDS
from trainer.checkpoint.merge import compress
from trainer.checkpoint.part_sizes import sizes_of_parts
from trainer.checkpoint.reader import CheckpointReader
from trainer.machine.json_file import Malformed
from trainer.model.partition import Slice
from trainer.model.region import Region


def expanded(rows):
    """Every piece, as (parameter, kind, slice, start, size, part, offset)."""
    columns = zip(*(rows[name].tolist() for name in WORDS + LONGS), strict=True)
    return sorted(
        (parameter, kind, cut, start + number * size, size, part + number * step, offset)
        for parameter, kind, cut, part, step, count, start, size, offset in columns
        for number in range(count)
    )


def table(pieces):
    """Rows of single pieces, in any order."""
    columns = dict(zip((*ORDER, "size", "part", "offset"), np.array(pieces).reshape(-1, 7).T, strict=True))
    columns |= {"step": np.zeros(len(pieces)), "count": np.ones(len(pieces))}
    return {name: columns[name].astype(np.int32 if name in WORDS else np.int64) for name in WORDS + LONGS}


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_the_pieces(seed):
    draw = random.Random(seed)
    pieces = []
    for parameter in range(4):
        start, part, size, offset = 0, draw.randrange(9), draw.randint(1, 3), draw.randrange(3)
        for _ in range(draw.randint(1, 40)):
            pieces.append((parameter, draw.randrange(2) if seed % 2 else 0, 0, start, size, part, offset))
            start += size + (draw.random() < 0.1)
            part += draw.choice((1, 1, 1, 1, 2, -1, 0))
            size = draw.randint(1, 3) if draw.random() < 0.1 else size
            offset = draw.randrange(3) if draw.random() < 0.1 else offset
    shuffled = draw.sample(pieces, len(pieces))
    rows = compress(table(shuffled))
    assert expanded(rows) == sorted(pieces)
    halves = [compress(table(shuffled[half::2])) for half in (0, 1)]
    again = compress({name: np.concatenate([half[name] for half in halves]) for name in WORDS + LONGS})
    assert expanded(again) == sorted(pieces)


@pytest.mark.parametrize(("ranks", "tensor"), [(64, 1), (64, 8), (48, 4)])
def test_a_large_run_is_few_runs(ranks, tensor):
    run = LargeRun(ranks, tensor, {"a.q_proj.weight": (64, 96), "a.o_proj.weight": (96, 64), "norm": (1536,)})
    joined = run.rows_of(range(ranks))
    merged = compress(joined)
    assert expanded(merged) == expanded(joined)
    assert len(merged["start"]) <= 2 * tensor * len(KINDS) * len(run.shapes)


def end_to_end(draw, parts):
    """Pieces of one parameter that fill each of so many parts, in the order of a plan that is partly even."""
    ends, start = [0] * parts, 0
    for _ in range(draw.randint(1, 12)):
        size, first, step = draw.randint(1, 3), draw.randrange(parts), draw.choice((1, 1, 2, 3, -1, -2))
        for part in range(first, max(-1, min(parts, first + step * draw.randint(1, parts))), step):
            yield (0, 0, 0, start, size, part, ends[part])
            ends[part] += size
            start += size


def filled_sizes(pieces, parts):
    """What sizes_of_parts finds, counted element by element."""
    held = [[] for _ in range(parts)]
    for *_, size, part, offset in pieces:
        held[part] += range(offset, offset + size)
    if any(sorted(elements) != list(range(len(elements))) for elements in held):
        return None
    return [len(elements) for elements in held]


@pytest.mark.parametrize("seed", range(60))
def test_pieces_of_a_part_lie_end_to_end(seed):
    draw = random.Random(seed)
    parts = draw.randint(1, 12)
    pieces = list(end_to_end(draw, parts))
    rows = compress(table(pieces))
    assert sizes_of_parts(rows, parts).tolist() == filled_sizes(pieces, parts)
    for _ in range(30):
        row = draw.randrange(len(rows["offset"]))
        changed = {name: column.copy() for name, column in rows.items()}
        name = draw.choice(("offset", "size", "part"))
        changed[name][row] = draw.randrange(parts if name == "part" else 6) + (name == "size")
        last = changed["part"][row] + (int(changed["count"][row]) - 1) * changed["step"][row]
        if not 0 <= last < parts:
            continue
        found = filled_sizes(expanded(changed), parts)
        if found is None:
            with pytest.raises(Malformed, match=r"part \d+: elements \d+ to \d+ belong to (no piece|two pieces)"):
                sizes_of_parts(changed, parts)
        else:
            assert sizes_of_parts(changed, parts).tolist() == found


def cut_up(draw, shape, dim, widths):
    """A parameter in slices along `dim` (or whole), each in ranges, some of them even."""
    edges = [sum(widths[:place]) for place in range(len(widths) + 1)]
    for left, right in pairwise(edges) if widths else [(None, None)]:
        cut = None if left is None else Slice(dim, left, right)
        count = Region.of_slice(shape, cut).count
        size = draw.choice((1, 3, 5, count))
        stops = [*range(size, count, size), count]
        if draw.random() < 0.3:
            stops = sorted({*draw.sample(range(1, count), min(count - 1, 4)), count})
        for start, stop in pairwise([0, *stops]):
            yield Region(shape, cut, start, stop)


CASES = [((9, 7), 0, []), ((9, 7), 0, [4, 5]), ((8, 6), 1, [2, 4]), ((3, 4, 5), 0, [1, 2]), ((13,), 0, [])]


@pytest.mark.parametrize("writers", [0, 1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_any_region_is_read_from_any_layout(tmp_path, seed, writers):
    draw = random.Random(seed)
    known = {f"p{number}": torch.randn(shape) for number, (shape, _, _) in enumerate(CASES)}
    by_rank = [[] for _ in range(5)]
    for number, (shape, dim, widths) in enumerate(CASES):
        for place, region in enumerate(cut_up(draw, shape, dim, widths)):
            values = region.cut(known[f"p{number}"])
            rank = place % 4 if seed % 2 else draw.randrange(4)  # the last rank holds nothing
            by_rank[rank].append(Fragment(f"p{number}", region, {"fp32": values, "exp_avg": values + 1}))
    reader = CheckpointReader(write_as_ranks(tmp_path, 1, by_rank, writers=writers))
    assert list(reader.part_problems()) == []
    for number, (shape, dim, _) in enumerate(CASES):
        whole = known[f"p{number}"]
        assert torch.equal(reader.read_whole(f"p{number}", "fp32"), whole)
        for _ in range(30):
            left = draw.randrange(shape[dim])
            cut = draw.choice((None, Slice(dim, left, draw.randint(left + 1, shape[dim]))))
            count = Region.of_slice(shape, cut).count
            start = draw.randrange(count)
            region = Region(shape, cut, start, draw.randint(start, count))
            assert torch.equal(reader.read(f"p{number}", "exp_avg", region), region.cut(whole) + 1)


@pytest.mark.parametrize(("ranks", "writers"), [(1, 0), (5, 0), (5, 1), (5, 2), (5, 4), (5, 9), (4096, 512)])
def test_ranks_that_follow_each_other_share_a_file(ranks, writers):
    groups = [group_of(rank, ranks, writers) for rank in range(ranks)]
    assert all(rank in group for rank, group in enumerate(groups))
    distinct = sorted(set(groups), key=lambda group: group.start)
    assert len(distinct) == min(writers or ranks, ranks)
    assert [member for group in distinct for member in group] == list(range(ranks))
