"""Training straight on a WebDataset of others, beside our own shards: killed, it goes on at another world size."""

from collections import Counter

import numpy as np
import pytest

from tests.corpus import make_dataset, make_tokenizer, write_texts
from tests.data.web.wds import index_wds, write_wds
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config, start_ranks
from trainer.config import Data, MixtureStage, TrainingSet
from trainer.data.tokens.datasets import open_training
from trainer.run.provenance import cut_stretches, documents_between, open_order

LENGTH, BATCH = 32, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    write_wds(folder / "tars", [{"txt": text} for text in write_texts(40, seed=3)], (1, 12, 2, 25))
    index_wds(str(folder / "tars"), folder)
    make_dataset(folder / "own", documents=20, shards=2, seed=4, tokenizer=make_tokenizer())
    return folder


def mixed(folder):
    """The indexed tars once, then our own shards alone; they begin with a fifth of it."""
    return {
        "data__train": {
            "own": TrainingSet(str(folder / "own"), 1.0),
            "web": TrainingSet(str(folder / "index"), 4.0, epochs=1.0),
        },
        "data__stages": {"even": MixtureStage(10 * BATCH * LENGTH, {"own": 1.0, "web": 2.0})},
        "data__path": None,
        "data__sequence_length": LENGTH,
        "data__validation": {},
        "evaluate__every": 0,
        "train__batch_size": BATCH,
    }


def test_killed_in_mid_shard_it_goes_on_at_another_world_size_with_every_row_of_the_tars_once(folder):
    data = Data(path=str(folder / "index"), sequence_length=LENGTH)
    rows = open_training(data)[0].rows.total
    steps = -(-rows * 3 // 2 // BATCH) + 4
    settings = mixed(folder) | {"train__steps": steps, "checkpoint__every": 7, "track__every": 1}
    assert run_ranks(pretrain, small_config(folder, folder / "calm", **settings), 1) == [0]
    config = small_config(folder, folder / "killed", **settings)
    config.data.cache = str(folder / "cache")  # as if the tars and our own shards lay on a mount
    ranks = start_ranks(pretrain, config, 2)
    ranks.kill_once_saved(folder / "killed")
    assert run_ranks(pretrain, config, 1) == [0]
    assert list((folder / "cache").rglob("*.source.tar"))
    calm, killed = (
        {row["step"]: row for row in read_metrics(folder / name) if "train/loss" in row} for name in ("calm", "killed")
    )
    assert calm.keys() == killed.keys() == set(range(1, steps + 1))
    for step, row in calm.items():
        assert killed[step]["train/loss"] == pytest.approx(row["train/loss"], rel=1e-5)
    last = killed[steps]
    assert last["train/web/unique_tokens"] == rows * LENGTH
    assert last["train/web/repeated_tokens"] == 0
    assert last["train/own/unique_tokens"] + last["train/own/repeated_tokens"] == (steps * BATCH - rows) * LENGTH
    opened = open_order(folder / "killed")
    assert opened.history.segments == open_order(folder / "calm").history.segments
    places = [p for p in opened.order.places(0, steps * BATCH) if p.dataset == "web"]
    assert set(Counter((place.shard, place.row) for place in places).values()) == {1}
    assert len(places) == rows
    dataset = opened.datasets[places[0].fingerprint]
    tokens = Counter()
    for place in places:
        ((first, last),) = cut_stretches(dataset, place.shard, place.row, None)
        for line, ids in documents_between(dataset, place.shard, first, last):
            tokens[line.partition(": tokens")[0]] += len(ids)
    lengths = np.concatenate([shard.lengths() for shard in dataset.shards])
    assert len(tokens) == len(lengths) == 40  # every document, and of each all tokens but the stream's rest
    assert sum(tokens.values()) == rows * LENGTH > lengths.sum() - LENGTH - 1
