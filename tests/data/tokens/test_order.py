"""The order of training data: a pure function of (seed, data, position)."""

from collections import Counter

import numpy as np
import pytest

from trainer.config.batches import chunk_of
from trainer.data.tokens.order import PERIOD, Order, Rows, Segment, extend, integer_weights, permute, rows_in
from trainer.errors import ConfigError, InputError
from trainer.machine.json_file import from_json

CODE = Rows("code", "c0de", (5, 0, 17, 3, 8))
PROSE = Rows("prose", "9705e", (11, 4))


def order_of(*datasets, weights=None, seed=0, window=2):
    weights = weights or dict.fromkeys((rows.name for rows in datasets), 1.0)
    segments = extend([], first=0, rows=datasets, weights=weights)
    return Order(datasets, segments, seed=seed, window=window)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_permutation_takes_every_value_once(size):
    assert sorted(permute(np.arange(size), size, key=7)) == list(range(size))


def test_permutation_of_huge_range_is_seekable_and_in_range():
    values = permute(np.arange(1000) + 10**12, 10**13, key=1)
    assert len(set(values.tolist())) == 1000
    assert values.min() >= 0
    assert values.max() < 10**13
    assert permute(np.array([10**12 + 5]), 10**13, key=1)[0] == values[5]


def test_permutations_of_other_keys_differ():
    assert (permute(np.arange(1000), 1000, key=1) != permute(np.arange(1000), 1000, key=2)).mean() > 0.9


@pytest.mark.parametrize(("tokens", "rows"), [(0, 0), (1, 0), (10, 0), (11, 1), (20, 1), (21, 2)])
def test_rows_overlap_by_one_token(tokens, rows):
    assert rows_in(tokens, 10) == rows


def test_each_epoch_uses_every_row_once_and_in_another_order():
    places = order_of(CODE).places(0, 3 * CODE.total)
    epochs = [[(p.shard, p.row) for p in places if p.epoch == epoch] for epoch in range(3)]
    everything = [(shard, row) for shard, rows in enumerate(CODE.rows) for row in range(rows)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_places_don_t_depend_on_where_reading_begins():
    whole = order_of(CODE, PROSE).places(0, 300)
    order = order_of(CODE, PROSE)
    assert [place for n in range(0, 300, 7) for place in order.places(n, min(n + 7, 300))] == whole
    backwards = order.locate(np.arange(299, -1, -1))
    assert list(zip(backwards.shard, backwards.row, strict=True)) == [(p.shard, p.row) for p in whole[::-1]]


def test_order_depends_on_seed_and_fingerprint():
    renamed = Rows("code", "other", CODE.rows)
    assert order_of(CODE).places(0, 33) != order_of(CODE, seed=1).places(0, 33)
    rows = [(p.shard, p.row) for p in order_of(CODE).places(0, 33)]
    assert rows != [(p.shard, p.row) for p in order_of(renamed).places(0, 33)]


def test_rows_stay_within_their_window_of_shards():
    rows = Rows("many", "f", tuple([10] * 12))
    places = order_of(rows, window=3).places(0, 120)
    for first in range(0, 120, 30):
        assert len({place.shard for place in places[first : first + 30]}) == 3


def test_mixture_holds_its_shares_over_any_stretch():
    order = order_of(CODE, PROSE, weights={"code": 3.0, "prose": 1.0})
    for start in (0, 17, 1000):
        counts = Counter(place.dataset for place in order.places(start, start + 400))
        assert counts["code"] == pytest.approx(300, abs=1)


def test_weights_sum_to_the_period_and_tiny_ones_are_refused():
    whole = integer_weights({"a": 1, "b": 1, "c": 1})
    assert sum(whole.values()) == PERIOD
    with pytest.raises(ConfigError, match=r"data\.train\.b\.weight=1e-06"):
        integer_weights({"a": 1.0, "b": 1e-6})


def test_changed_weights_go_on_at_each_dataset_s_own_counter():
    before = extend([], first=0, rows=[CODE, PROSE], weights={"code": 1, "prose": 1})
    after = extend(before, first=100, rows=[CODE, PROSE], weights={"code": 3, "prose": 1})
    changed = Order([CODE, PROSE], after, seed=0, window=2).places(0, 5000)
    for rows in (CODE, PROSE):
        alone = order_of(rows).places(0, 5000)
        ours = [(p.epoch, p.shard, p.row) for p in changed if p.dataset == rows.name]
        assert ours == [(p.epoch, p.shard, p.row) for p in alone][: len(ours)]
    assert changed[:100] == Order([CODE, PROSE], before, seed=0, window=2).places(0, 100)


def test_dataset_that_rested_keeps_its_place_and_new_one_begins_at_zero():
    segments = extend([], first=0, rows=[CODE], weights={"code": 1})
    segments = extend(segments, first=40, rows=[PROSE], weights={"prose": 1})
    segments = extend(segments, first=60, rows=[CODE, PROSE], weights={"code": 1, "prose": 1})
    starts = {name: share.start for name, share in segments[-1].shares.items()}
    assert starts == {"code": 40, "prose": 20}


def test_unchanged_mixture_adds_no_segment_and_json_keeps_all():
    segments = extend([], first=0, rows=[CODE], weights={"code": 1})
    assert extend(segments, first=9, rows=[CODE], weights={"code": 2.5}) == segments
    assert [from_json(Segment, segment.to_json()) for segment in segments] == segments


def test_dataset_without_a_whole_row_is_refused():
    with pytest.raises(InputError, match="no shard holds one whole row"):
        order_of(Rows("empty", "e", (0, 0)))


def test_micro_batches_are_the_same_at_any_world_size():
    for world_size in (1, 2, 4):
        chunks = [
            chunk_of(micro_step, rank=rank, world_size=world_size)
            for micro_step in range(8 // world_size)
            for rank in range(world_size)
        ]
        assert chunks == list(range(8))
