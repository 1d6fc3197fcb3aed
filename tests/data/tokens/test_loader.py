"""From positions to batches: every row the promised number of times, whatever the world size and restarts."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from tests.corpus import make_dataset
from trainer.config import Data, TrainingSet
from trainer.config.ramps import Ramps
from trainer.data.tokens.datasets import open_training, weights_of
from trainer.data.tokens.history import History
from trainer.data.tokens.loader import IGNORED, Loader, validation_batches
from trainer.data.tokens.mixture import mixture_in
from trainer.data.tokens.order import Order, extend
from trainer.errors import InputError
from trainer.objective.causal import Causal, document_ids

BATCH, MICRO = 8, 2


def read_legs(data_legs, legs):
    """Global micro-batches, in order, of a run of `legs`: (steps, world size) each; data may change at a restart."""
    history, position, step, chunks = History([], []), 0, 0, []
    for data, (steps, world_size) in zip(data_legs, legs, strict=True):
        sets = open_training(data)
        rows = [dataset.rows for dataset in sets]
        history = history.go_on(
            step=step, position=position, ramps=Ramps(BATCH), rows=rows, mixture=mixture_in(data, rows)
        )
        order = Order(rows, history.segments, seed=3, window=data.shuffle_shards)
        streams = [
            Loader(
                sets, order, Ramps(BATCH), MICRO, rank, world_size, to_batch=Causal(0, None).to_batch, prefetch=3
            ).batches(position)
            for rank in range(world_size)
        ]
        for _ in range(steps * BATCH // (MICRO * world_size)):
            chunks += [next(stream) for stream in streams]
        for stream in streams:
            stream.close()
        step, position = step + steps, position + steps * BATCH
    return chunks, history


def count_rows(chunks):
    return Counter(tuple(row.tolist()) for chunk in chunks for row in chunk.inputs)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    make_dataset(folder / "a", documents=13, shards=2, seed=1)
    make_dataset(folder / "b", documents=17, shards=3, seed=2)
    return folder


def mixed(folder, a, b):
    sets = {"a": TrainingSet(str(folder / "a"), a), "b": TrainingSet(str(folder / "b"), b)}
    return Data(train=sets, sequence_length=32, shuffle_shards=2)


def test_three_epochs_use_every_row_three_times_at_any_world_size_with_a_restart(mixture):
    data = Data(path=str(mixture / "a"), sequence_length=32, shuffle_shards=2)
    total = open_training(data)[0].rows.total
    steps = -(-3 * total // BATCH)
    reference, _ = read_legs([data], [(steps, 1)])
    rows = [tuple(row.tolist()) for chunk in reference for row in chunk.inputs][: 3 * total]
    assert set(Counter(rows).values()) == {3}
    assert len(set(rows)) == total
    for legs in ([(steps, 2)], [(steps, 4)], [(5, 4), (steps - 5, 1)], [(3, 1), (4, 2), (steps - 7, 4)]):
        chunks, _ = read_legs([data] * len(legs), legs)
        assert [chunk.position for chunk in chunks] == [chunk.position for chunk in reference]
        assert all(torch.equal(one.inputs, two.inputs) for one, two in zip(chunks, reference, strict=True))
        assert all(torch.equal(one.targets, two.targets) for one, two in zip(chunks, reference, strict=True))


def test_mixture_whose_weights_change_at_a_restart_loses_and_repeats_nothing(mixture):
    datas = [mixed(mixture, 1, 1), mixed(mixture, 4, 1)]
    reference, history = read_legs(datas, [(6, 1), (9, 1)])
    for legs in ([(6, 2), (9, 4)], [(6, 4), (9, 2)]):
        chunks, _ = read_legs(datas, legs)
        assert all(torch.equal(one.inputs, two.inputs) for one, two in zip(chunks, reference, strict=True))
    sets = {dataset.name: dataset for dataset in open_training(datas[1])}
    counters = history.segments[-1].counters_at(15 * BATCH)
    assert sum(counters.values()) == 15 * BATCH
    rows = count_rows(reference)
    for name, dataset in sets.items():
        own = {
            tuple(dataset.row(shard, row)[:-1].tolist()): (shard, row)
            for shard, count in enumerate(dataset.rows.rows)
            for row in range(count)
        }
        used = [rows[row] for row in own]
        assert sum(used) == counters[name]
        assert max(used) - min(used) <= 1  # no row is taken again before every other has been


def test_targets_are_inputs_moved_by_one(mixture):
    chunks, _ = read_legs([mixed(mixture, 1, 1)], [(1, 1)])
    assert torch.equal(chunks[0].inputs[:, 1:], chunks[0].targets[:, :-1])


def test_document_ids_come_from_end_of_text():
    inputs = np.array([[5, 0, 7, 8, 0, 0, 9]])
    assert document_ids(inputs, end_of_text=0).tolist() == [[0, 0, 1, 1, 1, 2, 3]]


@pytest.mark.parametrize("world_size", [3, 5, 8])
def test_ranks_that_don_t_divide_the_chunks_read_each_row_once_and_fill_up_with_rows_that_don_t_count(
    mixture, world_size
):
    data = Data(path=str(mixture / "a"), sequence_length=32)
    datasets = open_training(data)
    rows = [dataset.rows for dataset in datasets]
    order = Order(rows, extend([], first=0, rows=rows, weights=weights_of(data)), seed=3, window=2)
    micro_steps = -(-BATCH // world_size)

    def read(rank, ranks, count):
        loader = Loader(datasets, order, Ramps(BATCH), 1, rank, ranks, to_batch=Causal(0, None).to_batch, prefetch=2)
        return list(islice(loader.batches(0), count))

    streams = [read(rank, world_size, 2 * micro_steps) for rank in range(world_size)]
    batches = [stream[number] for number in range(2 * micro_steps) for stream in streams]
    counting = [batch for batch in batches if (batch.targets != IGNORED).any()]
    expected = read(0, 1, 2 * BATCH)
    assert [batch.position for batch in counting] == [batch.position for batch in expected]
    assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(counting, expected, strict=True))
    assert len(batches) - len(counting) == 2 * (micro_steps * world_size - BATCH)
    assert all((batch.inputs >= 0).all() for batch in batches)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_validation_rows_are_read_once_and_ranks_take_equal_turns(mixture, world_size, micro_batch_size):
    dataset = open_training(Data(path=str(mixture / "a"), sequence_length=32))[0]
    settings = {
        "rows": 11,
        "micro_batch_size": micro_batch_size,
        "world_size": world_size,
        "to_batch": Causal(0, None).to_batch,
    }
    streams = [list(validation_batches(dataset, rank=rank, **settings)) for rank in range(world_size)]
    assert len({len(stream) for stream in streams}) == 1
    assert all((batch.inputs >= 0).all() for stream in streams for _, batch in stream)
    real = [row for stream in streams for _, batch in stream for row in batch.targets if not (row == IGNORED).all()]
    expected = [tuple(row[1:].tolist()) for row in dataset.gather_in_file_order(np.arange(11))]
    assert Counter(tuple(row.tolist()) for row in real) == Counter(expected)


def test_token_outside_the_vocabulary_names_shard_and_row(mixture, tmp_path):
    manifest = make_dataset(tmp_path / "damaged", documents=13, shards=1)
    dataset = open_training(Data(path=str(manifest.folder), sequence_length=32))[0]
    path = manifest.folder / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    place = content.index(b"\x93NUMPY") + 128 + 200
    content[place : place + 2] = b"\xff\xff"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-000000.tar: token 65535 in row"):
        [dataset.row(0, row) for row in range(dataset.rows.total)]


def test_endless_batches_can_be_left_at_any_time(mixture):
    data = mixed(mixture, 1, 1)
    sets = open_training(data)
    rows = [dataset.rows for dataset in sets]
    history = History([], []).go_on(step=0, position=0, ramps=Ramps(BATCH), rows=rows, mixture=mixture_in(data, rows))
    loader = Loader(
        sets, Order(rows, history.segments, seed=0, window=2), Ramps(BATCH), MICRO, 0, 1, Causal(0, None).to_batch, 4
    )
    stream = loader.batches(10**9)
    assert [batch.position for batch in islice(stream, 3)] == [10**9, 10**9 + 2, 10**9 + 4]
    stream.close()
