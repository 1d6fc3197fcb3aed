"""data.packing=whole: every document once and whole, rows full, labels inside documents, the same at every shape."""

import random

import numpy as np
import pytest

from tests.targets import make_masked_dataset
from trainer.config import Data
from trainer.config.ramps import Ramps
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.loader import IGNORED, Loader
from trainer.data.tokens.order import Order, extend
from trainer.data.tokens.packing import Packing, best_fit, lay_out
from trainer.errors import InputError
from trainer.objective.causal import Causal

LENGTH = 24


def plain_best_fit(sizes, capacity):
    """Best fit as it is defined, by a search through all rows."""
    free, chosen = [], []
    for size in sizes:
        fitting = [(left, row) for row, left in enumerate(free) if left >= size]
        if fitting:
            row = min(fitting)[1]
        else:
            row = len(free)
            free.append(capacity)
        free[row] -= size
        chosen.append(row)
    return free, chosen


@pytest.mark.parametrize("seed", range(8))
def test_best_fit_fills_rows_as_its_definition_does(seed):
    draw = random.Random(seed)
    sizes = sorted((draw.randint(1, 50) for _ in range(300)), reverse=True)
    rows = best_fit(sizes, 50)
    filled = np.bincount(rows, weights=sizes)
    assert filled.max() <= 50
    assert sorted(50 - filled) == sorted(plain_best_fit(sizes, 50)[0])


def test_every_document_is_in_one_row_whole_and_padding_is_small():
    draw = np.random.default_rng(1)
    lengths = np.minimum(2 + draw.lognormal(5.2, 1.0, 20_000).astype(np.int64), 2049)
    table = lay_out(lengths, row_length=2048, packing=Packing(0, cut=True))
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(table.starts)
    assert np.array_equal(table.starts[order], starts)
    assert np.array_equal(table.places[order], lengths - 1)
    filled = np.add.reduceat(table.places, table.firsts[:-1])
    assert filled.max() <= 2048
    assert 1 - filled.sum() / (table.rows * 2048) < 0.002


def test_the_seed_and_nothing_else_decides_who_shares_a_row():
    lengths = np.random.default_rng(2).integers(2, 40, 500)
    one, again, other = (lay_out(lengths, row_length=64, packing=Packing(seed, cut=True)) for seed in (3, 3, 4))
    assert np.array_equal(one.starts, again.starts)
    assert not np.array_equal(one.starts, other.starts)
    assert one.rows == other.rows


def test_documents_longer_than_a_row_are_cut_so_that_each_token_is_a_target_once_or_left_out():
    lengths = np.array([1, 2, 9, 20, 8])
    cut = lay_out(lengths, row_length=7, packing=Packing(0, cut=True))
    targets = np.concatenate(
        [np.arange(start + 1, start + places + 1) for start, places in zip(cut.starts, cut.places, strict=True)]
    )
    firsts = np.cumsum(lengths) - lengths
    assert sorted(targets) == [token for token in range(int(lengths.sum())) if token not in firsts]
    rejecting = lay_out(lengths, row_length=7, packing=Packing(0, cut=False))
    assert rejecting.rejected == 2
    assert sorted(rejecting.places.tolist()) == [1, 7]


@pytest.fixture
def data(tmp_path):
    return Data(path=str(make_masked_dataset(tmp_path / "masked").folder), sequence_length=LENGTH, packing="whole")


def batches_of(data, world_size, rank, micro, position=0, seed=0):
    sets = open_training(data, seed)
    rows = [dataset.rows for dataset in sets]
    order = Order(rows, extend([], first=0, rows=rows, weights={"train": 1.0}), seed=seed, window=2)
    return Loader(sets, order, Ramps(8), micro, rank, world_size, Causal(LENGTH, None).to_batch, 2).batches(position)


def rows_of(data, world_size, micro, steps, position=0, seed=0):
    """Rows of `steps` global batches by their position: inputs, targets, document ids."""
    found = {}
    for rank in range(world_size):
        stream = batches_of(data, world_size, rank, micro, position, seed)
        for _ in range(steps * 8 // (micro * world_size)):
            batch = next(stream)
            for row, place in enumerate(batch.positions.tolist()):
                found[place] = tuple(x[row].tolist() for x in (batch.inputs, batch.targets, batch.document_ids))
        stream.close()
    return found


def test_rows_hold_each_document_whole_with_its_own_targets_and_no_label_crosses(data):
    (dataset,) = open_training(data)
    expected = []
    for shard in dataset.shards:
        ends = np.cumsum(shard.lengths().astype(np.int64))
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            tokens, counted = shard.read(start, end).tolist(), shard.take_targets(np.arange(start, end)).tolist()
            labels = [token if wanted else IGNORED for token, wanted in zip(tokens, counted, strict=True)]
            pieces = range(0, len(tokens) - 1, LENGTH)
            expected += [
                (tuple(tokens[:-1][cut : cut + LENGTH]), tuple(labels[1:][cut : cut + LENGTH])) for cut in pieces
            ]
    total = dataset.rows.total
    batch = Causal(LENGTH, None).to_batch(dataset.rows_in_file_order(np.arange(total)), positions=np.arange(total))
    found, padding = [], 0
    for inputs, targets, ids in zip(batch.inputs, batch.targets, batch.document_ids, strict=True):
        for number in range(int(ids.max()) + 1):
            mine = ids == number
            piece = tuple(inputs[mine].tolist()), tuple(targets[mine].tolist())
            if piece in expected:
                found.append(piece)
            else:  # padding is a document of its own, and the last
                assert number == int(ids.max())
                assert set(piece[1]) == {IGNORED}
                padding += len(piece[0])
    assert sorted(found) == sorted(expected)
    assert f"{padding / (total * LENGTH):.2%} of them padding" in dataset.describe_packing()


def test_an_epoch_has_each_row_once_at_any_world_size_micro_batch_and_restart(data):
    alone = rows_of(data, 1, 8, 4)
    assert rows_of(data, 2, 1, 4) == alone
    assert rows_of(data, 4, 2, 4) == alone
    later = rows_of(data, 2, 4, 2, position=16)
    assert later == {place: alone[place] for place in range(16, 32)}
    total = open_training(data)[0].rows.total
    assert len({tuple(alone[place][0]) for place in range(total)}) == total
    assert rows_of(data, 1, 8, 1, seed=1) != {place: alone[place] for place in range(8)}


def test_each_epoch_has_the_same_rows_in_an_order_of_its_own(data):
    """A function of (seed, epoch): a run that goes on in the middle of one knows it without reading what was before."""
    total = open_training(data)[0].rows.total
    steps = -(-2 * total // 8)
    order = [tuple(tokens) for _, (tokens, *_) in sorted(rows_of(data, 1, 8, steps).items())]
    first, second = order[:total], order[total : 2 * total]
    assert sorted(first) == sorted(second)
    assert first != second
    later = rows_of(data, 1, 8, 1, position=total)
    assert [tuple(tokens) for _, (tokens, *_) in sorted(later.items())] == second[:8]


def test_rows_too_short_for_any_document_are_refused(tmp_path):
    folder = make_masked_dataset(tmp_path / "long", documents=4, shards=1, longest=2000, seed=5).folder
    with pytest.raises(InputError, match="long_documents=cut"):
        open_training(Data(path=str(folder), sequence_length=2, packing="whole", long_documents="reject"))
