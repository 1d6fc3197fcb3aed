"""Shards that say which tokens are targets: written, read, checked, and the same to stock WebDataset."""

import dataclasses
import json
import random

import numpy as np
import pytest

from tests.corpus import make_dataset
from tests.targets import make_masked_dataset, masked_block
from trainer.config import Data, TrainingSet
from trainer.config.ramps import Ramps
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.loader import IGNORED, Loader
from trainer.data.tokens.manifest import read_manifest, write_manifest
from trainer.data.tokens.order import Order, extend
from trainer.data.tokens.shard_index import build_index, write_index
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.shards import ShardReader, open_shards
from trainer.data.tokens.verify import verify
from trainer.errors import InputError
from trainer.objective.causal import Causal


@pytest.fixture
def manifest(tmp_path):
    return make_masked_dataset(tmp_path / "masked")


def test_bits_come_back_from_any_place_of_any_block(manifest):
    draw = np.random.default_rng(0)
    for reader in open_shards(read_manifest(manifest.folder)):
        blocks = [reader.block(number) for number in range(len(reader.index))]
        tokens = np.concatenate([block.tokens for block in blocks])
        targets = np.concatenate([block.targets for block in blocks])
        places = draw.integers(0, reader.tokens, (40, 7))
        assert np.array_equal(reader.take(places), tokens[places])
        assert np.array_equal(reader.take_targets(places), targets[places])
        assert 0 < targets.sum() < len(targets)
        with pytest.raises(IndexError):
            reader.take_targets(np.array([reader.tokens]))


def test_verify_counts_targets_and_finds_one_bit_that_was_changed(manifest):
    assert verify(manifest) == []
    shard = manifest.shards[0]
    path = manifest.folder / shard.file
    reader = ShardReader(manifest.folder, shard, manifest.dtype)
    offset = int(reader.index[1, -1])
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)
    assert any("targets" in problem for problem in verify(manifest))
    content[offset] ^= 4
    content[offset + (int(reader.index[1, 1]) + 7) // 8 - 1] |= 128
    if int(reader.index[1, 1]) % 8:
        path.write_bytes(content)
        assert any("more targets than tokens" in problem for problem in verify(manifest))


def test_stock_webdataset_reads_the_member(manifest):
    import webdataset

    reader = open_shards(manifest)[0]
    samples = webdataset.WebDataset(str(reader.path), shardshuffle=False).decode()
    for number, sample in enumerate(samples):
        bits = np.unpackbits(sample["targets.npy"], bitorder="little")[: len(sample["tokens.npy"])]
        assert np.array_equal(bits.astype(bool), reader.block(number).targets)


def test_the_index_is_built_again_from_the_tar_alone(manifest):
    path = manifest.folder / manifest.shards[1].file
    kept = path.with_suffix(".index").read_bytes()
    path.with_suffix(".index").unlink()
    write_index(path, build_index(path, manifest.dtype))
    assert path.with_suffix(".index").read_bytes() == kept


def test_versions_say_whether_there_are_targets(tmp_path, manifest):
    plain = make_dataset(tmp_path / "plain", documents=8, shards=1)
    assert json.loads((plain.folder / "manifest.json").read_text())["version"] == 2
    assert "targets" not in json.loads((plain.folder / "manifest.json").read_text())["shards"][0]
    content = json.loads((manifest.folder / "manifest.json").read_text())
    assert content["version"] == 3
    assert content["shards"][0]["targets"] == manifest.shards[0].targets


@pytest.mark.parametrize("targets", [10**6, -1, "many"])
def test_a_manifest_that_contradicts_itself_is_refused(manifest, targets):
    path = manifest.folder / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0]["targets"] = targets
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="malformed"):
        read_manifest(manifest.folder)


def test_a_manifest_that_hides_the_targets_doesnt_fit_the_index(manifest):
    hidden = dataclasses.replace(
        manifest, shards=tuple(dataclasses.replace(shard, targets=None) for shard in manifest.shards)
    )
    write_manifest(hidden)
    with pytest.raises(InputError, match="banyan data index"):
        open_shards(read_manifest(manifest.folder))


def test_blocks_with_and_without_targets_are_no_shard(tmp_path):
    draw = random.Random(0)
    blocks = [masked_block(draw, [5, 6], 0, 0), dataclasses.replace(masked_block(draw, [7], 0, 2), targets=None)]
    with pytest.raises(ValueError, match=r"."):
        write_shard(tmp_path / "shard-000000.tar", blocks, dtype="uint16")


def test_the_loader_ignores_what_is_no_target_also_in_a_mixture_with_plain_text(tmp_path, manifest):
    make_dataset(tmp_path / "plain", documents=20, shards=1)
    data = Data(sequence_length=16)
    data.train = {
        "chat": TrainingSet(str(manifest.folder), 1.0),
        "text": TrainingSet(str(tmp_path / "plain"), 1.0),
    }
    sets = open_training(data)
    rows = [dataset.rows for dataset in sets]
    order = Order(rows, extend([], first=0, rows=rows, weights={"chat": 1.0, "text": 1.0}), seed=0, window=2)
    stream = Loader(sets, order, Ramps(8), 4, 0, 1, Causal(16, None).to_batch, prefetch=2).batches(0)
    by_name = {dataset.name: dataset for dataset in sets}
    seen = set()
    for number in range(12):
        batch = next(stream)
        for row, place in enumerate(order.places(4 * number, 4 * number + 4)):
            dataset = by_name[place.dataset]
            tokens = dataset.row(place.shard, place.row).astype(np.int64)
            start = place.row * 16
            counted = dataset.shards[place.shard].take_targets(np.arange(start + 1, start + 17))
            assert batch.inputs[row].tolist() == tokens[:-1].tolist()
            assert batch.targets[row].tolist() == np.where(counted, tokens[1:], IGNORED).tolist()
            seen.add(place.dataset)
    assert seen == {"chat", "text"}
    stream.close()
