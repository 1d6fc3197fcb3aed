"""A rank of thousands begins to read a dataset of a hundred thousand shards: it touches a few of them."""

import os
from itertools import islice

import pytest

from tests.corpus import make_dataset
from tests.scale.opened import files_opened
from trainer.config import Data
from trainer.config.ramps import Ramps
from trainer.data.tokens.dataset import find_damage, find_missing_file
from trainer.data.tokens.datasets import open_training, weights_of
from trainer.data.tokens.loader import Loader
from trainer.data.tokens.manifest import Manifest, write_manifest
from trainer.data.tokens.order import Order, extend
from trainer.data.tokens.shard_index import index_path
from trainer.objective.causal import Causal

RANK, RANKS = 1234, 4096
SHARDS = 100_000
MOST_OPENED = 50
"""Files that a rank may open on shared storage to begin (docs/SCALE.md)."""


def make_many(folder, count):
    """A dataset of `count` shards that are all alike, of which only the manifest is there yet."""
    one = make_dataset(folder, documents=12, shards=1)
    shard = one.shards[0]
    names = [f"shard-{number:06d}.tar" for number in range(count)]
    shards = tuple(type(shard)(**vars(shard) | {"file": name}) for name in names)
    write_manifest(Manifest(**vars_of(one) | {"shards": shards, "documents_read": 12 * count}))
    path = folder / shard.file
    path.rename(folder / "original.tar")
    index_path(path).rename(folder / "original.index")


def vars_of(manifest):
    return {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}


def bring(folder, numbers):
    """Puts shards in their place."""
    for number in numbers:
        tar = folder / f"shard-{number:06d}.tar"
        if not tar.exists():
            os.link(folder / "original.tar", tar)
            os.link(folder / "original.index", index_path(tar))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "train"
    make_many(folder, SHARDS)
    return folder


def test_a_rank_opens_what_it_reads_and_looks_at_its_share(many):
    data = Data(path=str(many), sequence_length=32, shuffle_shards=16)
    (dataset,) = open_training(data)
    order = Order([dataset.rows], extend([], first=0, rows=[dataset.rows], weights=weights_of(data)), seed=0, window=16)
    bring(many, {place.shard for place in order.places(0, 4096)})
    bring(many, range(RANK, SHARDS, RANKS))
    with files_opened(many) as opened:
        (dataset,) = open_training(data)
        assert find_missing_file(dataset, part=RANK, parts=RANKS) is None
        loader = Loader([dataset], order, Ramps(RANKS), 1, RANK, RANKS, Causal(32, None).to_batch, prefetch=4)
        batches = list(islice(loader.batches(0), 1))
    assert batches[0].position == RANK
    assert {os.path.basename(path) for path in opened} >= {"manifest.json", "tokenizer.json"}
    assert len(opened) <= MOST_OPENED


def test_a_missing_file_is_found_by_the_rank_whose_share_it_is(many):
    (dataset,) = open_training(Data(path=str(many), sequence_length=32))
    number = RANK + 7 * RANKS
    bring(many, range(RANK, SHARDS, RANKS))
    tar = many / f"shard-{number:06d}.tar"
    index_path(tar).unlink()
    line = find_missing_file(dataset, part=RANK, parts=RANKS)
    assert f"shard-{number:06d}.index: the index of shard-{number:06d}.tar is missing; run" in line
    tar.unlink()
    assert f"shard-{number:06d}.tar: the shard is missing" in find_missing_file(dataset, part=RANK, parts=RANKS)
    bring(many, [number])
    assert find_damage(dataset, part=number, parts=SHARDS) is None
