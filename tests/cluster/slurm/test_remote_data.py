"""A run on a real SLURM whose data lie in a bucket: each node has a cache on a disk of its own."""

import time
from contextlib import contextmanager

import pytest

from launch.compose import compose
from tests.cluster.slurm.bucket import BucketDaemon
from tests.cluster.slurm.jobs import arguments, course, last_step, settings, submit_pretrain, write_setup
from tests.corpus import make_dataset
from tests.run_ranks import pretrain, run_ranks
from tests.states import assert_equal_states
from trainer.run.provenance import open_order

STEPS, RANKS, CUT_S = 180, 4, 20  # more than an epoch of both sets
TWO_BY_TWO = ("--nodes=2", "--gpus-per-node=0", "--ntasks-per-node=2", "--cpus-per-task=1")


def own_disks(cluster, place, nodes=("n1", "n2")):
    """Gives each node a disk of its own at `place`, until its end; where they lie."""
    place.mkdir()
    disks = [place.with_name(f"{place.name}-{node}") for node in nodes]
    for node, disk in zip(nodes, disks, strict=True):
        disk.mkdir()
        cluster.run_on(node, ["mount", "--bind", str(disk), str(place)])
    return disks


@contextmanager
def bucket_of(cluster, folder):
    store = BucketDaemon(cluster, folder)
    yield store
    store.stop()


def submit(cluster, store, folder, overrides):
    """Two ranks on each of two nodes, with the store's credentials as a site's setup would have them."""
    setup = write_setup(folder)
    with setup.open("a") as file:
        file.writelines(f"export {name}={value}\n" for name, value in store.variables.items())
    return submit_pretrain(cluster, folder, list(TWO_BY_TWO), overrides, export=f"--export=ALL,BANYAN_SETUP={setup}")


def local_run(keys, run_dir):
    """Undisturbed; the number of a shard that is first needed late: a rank reads 64 micro-batches of 2 rows at once."""
    assert run_ranks(pretrain, compose("pretrain", arguments(keys, run_dir)), RANKS) == [0] * RANKS
    places = open_order(run_dir).order.places(0, STEPS * keys["train.batch_size"])
    before = {place.shard for place in places[: 130 * keys["train.batch_size"]]}
    return next(place.shard for place in places if place.shard not in before)


def damaged(path, copy):
    """A copy with one bit that is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    return copy


def bytes_of(folder, pattern="*.tar"):
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def run_through_an_outage(cluster, keys, tmp_path, *, files, path_of, file_of):
    """Trains from a bucket that goes away, and has a shard damaged that is mended later; equal to the local run.

    `files` go into the bucket; `path_of` its URL is data.path, `file_of` gives a shard's file by its number.
    """
    bad = file_of(local_run(keys, tmp_path / "local"))
    place, most = tmp_path / "scratch", bytes_of(files) // 4
    disks = own_disks(cluster, place)
    with bucket_of(cluster, tmp_path) as store:
        url = store.fill(files)
        store.put(damaged(files / bad, tmp_path / "damaged"), f"{url}/{bad}")
        own = {"data.path": path_of(url), "data.cache": place, "data.cache_bytes": most, "data.shard_patience_s": 5}
        job = submit(cluster, store, tmp_path, arguments(keys | own | {"data.on_bad_shard": "retry"}, tmp_path / "run"))
        job.wait_for_step(3)
        store.cut_off()
        time.sleep(CUT_S)
        stalled = last_step(job.run_dir)
        store.connect()
        job.wait_for_step(stalled + 1)
        job.wait_for(lambda: len(reports_of(job, bad)) >= 1, "a word on the damaged shard")
        store.put(files / bad, f"{url}/{bad}")
        assert job.wait_for_end() == "COMPLETED", job.log
    assert 3 <= stalled < STEPS // 2, job.log
    assert all(0 < bytes_of(disk) <= most for disk in disks)
    assert course(job.run_dir) == course(tmp_path / "local")
    assert_equal_states(job.run_dir, tmp_path / "local")


def reports_of(job, bad):
    """What the ranks have said of a shard."""
    logs = [job.log, *(path.read_text() for path in (job.run_dir / "logs").glob("rank-*.log"))]
    return [line for log in logs for line in log.splitlines() if bad in line and "trying again" in line]


@pytest.mark.full
def test_two_nodes_train_from_a_bucket_that_goes_away_and_has_a_damaged_shard(isolated_cluster, tmp_path):
    folder = tmp_path / "data"
    make_dataset(folder / "train", documents=240, shards=40)
    run_through_an_outage(
        isolated_cluster,
        settings(folder, STEPS, every=50),
        tmp_path,
        files=folder,
        path_of=lambda url: url,
        file_of="train/shard-{:06d}.tar".format,
    )
