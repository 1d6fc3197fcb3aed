"""A run on a real SLURM whose data lie in a bucket: each node has a cache on a disk of its own."""

import time
from contextlib import contextmanager

import pytest

from launch.compose import compose
from tests.cluster.slurm.bucket import BucketDaemon
from tests.cluster.slurm.jobs import arguments, course, last_step, settings, submit_pretrain, write_setup
from tests.corpus import make_dataset
from tests.data.web.wds import index_wds, write_wds
from tests.run_ranks import pretrain, run_ranks
from tests.states import assert_equal_states

STEPS, RANKS, CUT_S = 150, 4, 20
TWO_BY_TWO = ("--nodes=2", "--gpus-per-node=0", "--ntasks-per-node=2", "--cpus-per-task=1")


@contextmanager
def own_disks(cluster, place, nodes=("n1", "n2")):
    """Gives each node a disk of its own at `place`; where they lie, by node."""
    place.mkdir()
    disks = {node: place.with_name(f"{place.name}-{node}") for node in nodes}
    for node, disk in disks.items():
        disk.mkdir()
        cluster.run_on(node, ["mount", "--bind", str(disk), str(place)])
    yield disks
    for node in nodes:
        cluster.run_on(node, ["umount", "--lazy", str(place)])


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
    assert run_ranks(pretrain, compose("pretrain", arguments(keys, run_dir)), RANKS) == [0] * RANKS


def damaged(path, copy):
    """A copy with one bit that is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    return copy


def bytes_of(folder, pattern="*.tar"):
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def run_through_an_outage(cluster, keys, tmp_path, *, data, bad):
    """Trains from a bucket that goes away, and has a shard damaged that is mended later; equal to the local run."""
    local_run(keys | {"data.path": data[0]}, tmp_path / "local")
    place, (_, remote, tars) = tmp_path / "scratch", data
    with own_disks(cluster, place) as disks, bucket_of(cluster, tmp_path) as store:
        url = store.fill(tars)
        path = remote(url)
        store.put(damaged(tars / bad, tmp_path / "damaged"), f"{url.removeprefix('s3://')}/{bad}")
        most = bytes_of(tars) // 4
        own = {"data.path": path, "data.cache": place, "data.cache_bytes": most, "data.shard_patience_s": 5}
        overrides = arguments(keys | own | {"data.on_bad_shard": "retry"}, tmp_path / "run")
        job = submit(cluster, store, tmp_path, overrides)
        job.wait_for_step(3)
        store.cut_off()
        time.sleep(CUT_S)
        stalled = last_step(job.run_dir)
        store.connect()
        job.wait_for_step(stalled + 1)
        store.put(tars / bad, f"{url.removeprefix('s3://')}/{bad}")
        assert job.wait_for_end() == "COMPLETED", job.log
        kept = [bytes_of(disk) for disk in disks.values()]
    assert stalled < STEPS - 10, job.log
    assert "trying again" in job.log
    assert all(0 < each <= most for each in kept), kept
    assert course(job.run_dir) == course(tmp_path / "local")
    assert_equal_states(job.run_dir, tmp_path / "local")
    return job


@pytest.mark.full
def test_two_nodes_train_from_a_bucket_that_goes_away_and_has_a_damaged_shard(isolated_cluster, tmp_path):
    folder = tmp_path / "data"
    make_dataset(folder / "train", documents=1600, shards=40)
    data = folder, lambda url: url, folder
    job = run_through_an_outage(
        isolated_cluster, settings(folder, STEPS, every=50), tmp_path, data=data, bad="train/shard-000020.tar"
    )
    assert "sha256 differs" in job.log
