"""Whole runs on data at a URL: equal to the local run through kills, outages and damage; skipped rows are listed."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.corpus import make_dataset
from tests.data.remote.store import Store, serving
from tests.data.text.servers import bucket_server, fill_bucket
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config, start_ranks
from trainer.config import Data
from trainer.config.ramps import Ramps
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.history import History
from trainer.data.tokens.mixture import mixture_in
from trainer.data.tokens.order import Order
from trainer.run.provenance import open_order, print_step


def losses(run_dir):
    return {row["step"]: row["train/loss"] for row in read_metrics(Path(run_dir))}


def shard_bytes(folder):
    return sum(path.stat().st_size for path in (folder / "train").glob("*.tar"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "train", documents=300, shards=12)
    make_dataset(folder / "validation", documents=12, shards=1, seed=5)
    return folder


@pytest.fixture(scope="module")
def local(data, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("local") / "run"
    assert run_ranks(pretrain, small_config(data, run_dir, train__steps=20, evaluate__every=20), 2) == [0, 0]
    return losses(run_dir)


def order_of(data):
    """Of a small_config's run."""
    settings = Data(path=str(data), sequence_length=32)
    rows = [training.rows for training in open_training(settings)]
    first = History([], []).go_on(step=0, position=0, ramps=Ramps(8), rows=rows, mixture=mixture_in(settings, rows))
    return Order(rows, first.segments, seed=0, window=2)


def test_a_run_that_was_killed_goes_on_from_its_cache_and_equals_the_local_one(data, local, tmp_path):
    store = Store(data, latency_s=0.02, jitter_s=0.01)
    with serving(store) as url:
        config = small_config(url, tmp_path / "run", train__steps=20, evaluate__every=20, checkpoint__every=5)
        config.data.cache, config.data.cache_bytes = str(tmp_path / "cache"), shard_bytes(data) // 3
        ranks = start_ranks(pretrain, config, 2)
        ranks.kill_once_saved(tmp_path / "run")
        assert list((tmp_path / "cache").rglob("*.tar"))
        assert run_ranks(pretrain, config, 2) == [0, 0]
        assert store.gets("/train/manifest.json") == 2  # a start's, by one of the ranks
    assert losses(tmp_path / "run") == local


def test_skipped_rows_are_in_the_history_the_metrics_and_a_listing(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "store")
    needed = sorted({place.shard for place in order_of(data).places(0, 100)})[0]
    name = f"shard-{needed:06d}.tar"
    (tmp_path / "store" / "train" / name).unlink()
    config = small_config(tmp_path / "store", tmp_path / "run", train__steps=20, checkpoint__every=10)
    config.data.cache, config.data.on_bad_shard = str(tmp_path / "cache"), "skip"
    assert run_ranks(pretrain, config, 2) == [0, 0]
    listed = [json.loads(line) for line in (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()]
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    rows = read_metrics(tmp_path / "run")
    assert listed
    assert {row["file"] for row in listed} == {name}
    assert rows[-1]["data/left_out_rows"] == len(listed) == len({row["position"] for row in listed})
    first, last = listed[0]["position"], listed[-1]["position"]
    shard = {"dataset": "train", "file": name, "rows": len(listed), "first": first, "last": last}
    assert history["left_out"] == [shard]
    assert rows[-1]["tokens"] == (20 * 8 - len(listed)) * 32
    print_step(tmp_path / "run", first // 8 + 1)
    assert "left out: the shard couldn't be had" in capsys.readouterr().out


@pytest.mark.full
def test_two_nodes_train_from_a_bucket_that_goes_away_and_has_a_damaged_shard(tmp_path):
    """Each with a cache of its own, a quarter of the data; the store is cut off for 20 s, and a shard mended late."""
    folder = tmp_path / "data"
    make_dataset(folder / "train", documents=240, shards=40)
    steps = 180  # more than an epoch
    assert run_ranks(pretrain, small_config(folder, tmp_path / "local", train__steps=steps), 4) == [0] * 4
    places = [place.shard for place in open_order(tmp_path / "local").order.places(0, steps * 8)]
    late = next(shard for shard in places if shard not in places[: 130 * 8])  # 64 steps are read at once
    with bucket_server() as server:
        url = fill_bucket(folder)
        name, good = damage_in_bucket(url, f"train/shard-{late:06d}.tar")
        config = small_config(url, tmp_path / "run", train__steps=steps)
        config.data.cache, config.data.cache_bytes = str(tmp_path / "node"), shard_bytes(folder) // 4
        config.data.on_bad_shard, config.data.shard_patience_s = "retry", 5.0
        environment = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        ranks = start_ranks(on_two_nodes, (config, environment), 4)
        wait_for(lambda: step_of(tmp_path / "run") >= 3 or ranks.errors())
        assert not ranks.errors()
        server.stop()
        time.sleep(20)
        assert step_of(tmp_path / "run") < steps // 2
        server.start()  # with what it had
        put_in_bucket(name, good)
        assert ranks.wait(300) == [0] * 4
    assert losses(tmp_path / "run") == losses(tmp_path / "local")
    for node in range(2):
        kept = sum(path.stat().st_size for path in Path(f"{tmp_path}/node-{node}").rglob("*.tar"))
        assert 0 < kept <= shard_bytes(folder) // 4


def on_two_nodes(given):
    """Ranks 0 and 1 have one cache, ranks 2 and 3 another; the bucket's place comes along."""
    config, environment = given
    os.environ.update(environment)
    config.data.cache += f"-{int(os.environ['RANK']) // 2}"
    return pretrain(config)


def damage_in_bucket(url, name):
    import s3fs

    files, path = s3fs.S3FileSystem(skip_instance_cache=True), f"{url}/{name}"
    good = files.cat_file(path)
    files.pipe_file(path, good[:1500] + bytes([good[1500] ^ 1]) + good[1501:])
    return path, good


def put_in_bucket(path, content):
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(path, content)


def step_of(run_dir):
    return max(losses(run_dir), default=0) if (run_dir / "metrics.jsonl").is_file() else 0


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
