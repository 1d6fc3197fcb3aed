"""Many rows at once are the rows one by one: from any shard, dtype, block and offset, in any order."""

import io
import itertools
import shutil
import tarfile

import numpy as np
import pytest
import torch

from tests.corpus import make_dataset
from trainer.config import Data, TrainingSet
from trainer.config.ramps import Ramps
from trainer.data.tokens.blocks import Block, Document
from trainer.data.tokens.datasets import open_training, weights_of
from trainer.data.tokens.loader import IGNORED, Loader
from trainer.data.tokens.manifest import Shard
from trainer.data.tokens.order import Order, extend
from trainer.data.tokens.shard_index import build_index, hash_index, write_index
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.shards import ShardReader, Shards
from trainer.errors import InputError
from trainer.machine.sealing.plaintext import plaintext_sha256
from trainer.objective.causal import Causal

LENGTH, BATCH = 16, 6


def random_blocks(draw, dtype):
    """Blocks of 1 to 60 tokens: most rows of 17 span two of them, some three."""
    blocks = []
    for number in range(12):
        tokens = draw.integers(0, np.iinfo(dtype).max, draw.integers(1, 60)).astype(dtype)
        document = Document(0, number, 1, f"{number:032x}")
        blocks.append(Block(tokens, np.array([len(tokens)], np.uint32), [document]))
    return blocks


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("seed", range(5))
def test_gathered_tokens_are_slices_of_the_whole(tmp_path, dtype, seed):
    draw = np.random.default_rng(seed)
    blocks = random_blocks(draw, dtype)
    shard = write_shard(tmp_path / "shard-000000.tar", blocks, dtype=dtype)
    reader, whole = ShardReader(tmp_path, shard, dtype), np.concatenate([block.tokens for block in blocks])
    for length in (1, LENGTH + 1, len(whole)):
        starts = draw.integers(0, len(whole) - length + 1, 50)
        expected = np.stack([whole[start : start + length] for start in starts])
        assert np.array_equal(reader.gather(starts, length), expected)
    assert reader.gather(np.empty(0, np.int64), LENGTH).shape == (0, LENGTH)
    for start in (-1, len(whole) - LENGTH + 1):
        with pytest.raises(IndexError):
            reader.gather(np.array([0, start]), LENGTH)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_tokens_at_odd_bytes_of_a_foreign_tar_are_the_same(tmp_path, dtype, shift):
    """The headers of .npy files are of any length; only ours are always 128 bytes."""
    draw = np.random.default_rng(0)
    blocks, path = random_blocks(draw, dtype), tmp_path / "shard-000000.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, block in enumerate(blocks):
            lines = "".join(document.line() for document in block.documents).encode()
            for name, content in (
                ("tokens.npy", npy(block.tokens, shift)),
                ("lengths.npy", npy(block.lengths, 0)),
                ("documents.jsonl", lines),
            ):
                info = tarfile.TarInfo(f"{number:08d}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    index = build_index(path, dtype)
    write_index(path, index)
    assert (index[:, 0] % np.dtype(dtype).itemsize == 0).all() == (shift == 0)
    whole = np.concatenate([block.tokens for block in blocks])
    shard = Shard(
        path.name, path.stat().st_size, plaintext_sha256(path), len(whole), len(blocks), 12, hash_index(index)
    )
    starts = draw.integers(0, len(whole) - LENGTH, 40)
    expected = np.stack([whole[start : start + LENGTH] for start in starts])
    assert np.array_equal(ShardReader(tmp_path, shard, dtype).gather(starts, LENGTH), expected)


def npy(array, shift):
    """An .npy whose data begin `shift` bytes later than ours do."""
    file = io.BytesIO()
    np.save(file, array)
    content = file.getvalue()
    header = content[10:128].rstrip(b"\n") + b" " * shift + b"\n"
    return content[:8] + len(header).to_bytes(2, "little") + header + content[128:]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Two datasets of one tokenizer, of different dtypes."""
    folder = tmp_path_factory.mktemp("mixture")
    make_dataset(folder / "a", documents=23, shards=3, seed=1)
    make_dataset(folder / "b", documents=17, shards=2, seed=2, dtype="uint32")
    sets = {name: TrainingSet(str(folder / name), weight) for name, weight in (("a", 2.0), ("b", 1.0))}
    return Data(train=sets, sequence_length=LENGTH, shuffle_shards=2)


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size", "masked"),
    [(1, 1, True), (1, 6, False), (2, 3, True), (4, 1, True), (5, 2, False)],
)
def test_batches_are_rows_read_one_by_one(mixture, monkeypatch, world_size, micro_batch_size, masked):
    monkeypatch.setattr("trainer.data.tokens.loader.GATHERED_TOKENS", 7 * LENGTH)
    monkeypatch.setattr("trainer.data.tokens.loader.PLACED_ROWS", 20)
    datasets = open_training(mixture)
    rows = [dataset.rows for dataset in datasets]
    order = Order(rows, extend([], first=0, rows=rows, weights=weights_of(mixture)), seed=3, window=2)
    by_fingerprint = {dataset.manifest.fingerprint: dataset for dataset in datasets}
    end_of_text = datasets[0].manifest.end_of_text
    first, chunks = 2 * BATCH, BATCH // micro_batch_size
    micro_steps = -(-chunks // world_size)
    for rank in range(world_size):
        objective = Causal(LENGTH, end_of_text if masked else None)
        loader = Loader(
            datasets, order, Ramps(BATCH), micro_batch_size, rank, world_size, objective.to_batch, prefetch=3
        )
        stream = loader.batches(first)
        for step, micro_step in itertools.product(range(40), range(micro_steps)):
            batch, chunk = next(stream), micro_step * world_size + rank
            position = first + step * BATCH + min(chunk, chunks - 1) * micro_batch_size
            places = order.places(position, position + micro_batch_size)
            expected = np.stack([by_fingerprint[place.fingerprint].row(place.shard, place.row) for place in places])
            assert batch.position == position
            assert batch.inputs.dtype == batch.targets.dtype == torch.int64
            assert np.array_equal(batch.inputs, expected[:, :-1])
            targets = expected[:, 1:] if chunk < chunks else np.full_like(expected[:, 1:], IGNORED, dtype=np.int64)
            assert np.array_equal(batch.targets, targets)
            ends = expected[:, :-1] == end_of_text
            if masked:
                assert np.array_equal(batch.document_ids, ends.cumsum(1) - ends)
            else:
                assert batch.document_ids is None
        stream.close()


def test_batches_before_a_damaged_row_still_come(tmp_path):
    make_dataset(tmp_path / "data", documents=40, shards=1)
    data = Data(path=str(tmp_path / "data"), sequence_length=LENGTH)
    (dataset,) = open_training(data)
    order = Order([dataset.rows], extend([], first=0, rows=[dataset.rows], weights=weights_of(data)), seed=0, window=1)
    damaged = order.places(9, 10)[0]
    path = tmp_path / "data" / "shard-000000.tar"
    starts = np.cumsum(dataset.shards[0].index[:, 1]) - dataset.shards[0].index[:, 1]
    token = damaged.row * LENGTH + 3
    holder = int(np.searchsorted(starts, token, side="right")) - 1
    content = bytearray(path.read_bytes())
    place = int(dataset.shards[0].index[holder, 0]) + 2 * (token - int(starts[holder]))
    content[place : place + 2] = b"\xff\xff"
    path.write_bytes(content)
    stream = Loader([dataset], order, Ramps(2), 2, 0, 1, Causal(LENGTH, None).to_batch, prefetch=3).batches(0)
    assert [next(stream).position for _ in range(4)] == [0, 2, 4, 6]
    with pytest.raises(InputError, match=rf"shard-000000.tar: token 65535 in row {damaged.row} is outside"):
        next(stream)


def test_few_of_many_shards_are_opened_and_the_last_used_stay(dataset, tmp_path, monkeypatch):
    (opened,) = open_training(Data(path=str(dataset), sequence_length=LENGTH))
    for path in shutil.copytree(dataset, tmp_path / "copy").glob("shard-00000[12].*"):
        path.unlink()
    (opened,) = open_training(Data(path=str(tmp_path / "copy"), sequence_length=LENGTH))
    assert opened.row(0, 0).shape == (LENGTH + 1,)
    with pytest.raises(InputError, match=r"shard-000002.tar: the shard is missing; fetch it"):
        opened.row(2, 0)
    few = Shards(open_training(Data(path=str(dataset), sequence_length=LENGTH))[0].manifest, most=2)
    zero, one = few[0], few[1]
    assert few[0] is zero
    assert few[2] is not one
    assert few[0] is zero
    assert few[1] is not one
