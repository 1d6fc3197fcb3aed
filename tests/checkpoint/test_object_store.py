"""Checkpoints in an object store: fetched when newer, checked by hash. moto's server stands in for S3."""

import os
import shutil
import uuid

import pytest
import torch

from tests.checkpoint.written import WEIGHT, open_writer, pieces, write_checkpoint
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.checkpoint.object_store import ObjectStore
from trainer.checkpoint.reader import CheckpointReader, find_problem
from trainer.errors import ConfigError, StorageError


def accept(folder):
    """A check that takes every checkpoint."""


@pytest.fixture
def folder_url(tmp_path):
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def bucket_url(monkeypatch):
    """An empty bucket on a server of this process."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    bucket = f"runs-{uuid.uuid4().hex}"  # moto keeps them from test to test
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    yield f"s3://{bucket}/one"
    server.stop()


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_what_is_copied_is_fetched_by_a_run_directory_that_lacks_it(tmp_path, request, kind):
    url = request.getfixturevalue(f"{kind}_url")
    writer = open_writer(tmp_path / "here", store=ObjectStore(url), keep=2)
    for step in (1, 2, 3):
        writer.save(pieces(5 + step), {"step": step}, last=step == 3)
    assert ObjectStore(url).steps() == [2, 3]
    assert ObjectStore(url).fetch_newest(tmp_path / "here", accept) == []

    write_checkpoint(tmp_path / "there", 2)
    assert ObjectStore(url).fetch_newest(tmp_path / "there", accept) == [f"fetched {url}/step-00000003"]
    assert list_steps(tmp_path / "there") == [2, 3]
    whole = CheckpointReader(folder_of(tmp_path / "there", 3)).read_whole("odd", "fp32")
    assert torch.equal(whole.view(-1), WEIGHT)


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no COMPLETE"])
def test_what_is_not_whole_there_is_passed_over(tmp_path, folder_url, damage):
    store = ObjectStore(folder_url)
    for step in (1, 2):
        store.upload(write_checkpoint(tmp_path / "here", step))
    tensors = tmp_path / "store" / "step-00000002" / "rank-00000.safetensors"
    content = bytearray(tensors.read_bytes())
    if damage == "flip":
        content[-9] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut":
        tensors.write_bytes(content[:-9])
    else:
        (tensors if damage == "missing" else tensors.with_name("COMPLETE")).unlink()
    lines = store.fetch_newest(tmp_path / "there", accept)
    assert lines[-1] == f"fetched {folder_url}/step-00000001"
    assert len(lines) == (1 if damage == "no COMPLETE" else 2)
    assert sorted(path.name for path in (tmp_path / "there" / "checkpoints").iterdir()) == ["step-00000001"]


def test_whole_one_there_replaces_a_broken_one_here(tmp_path, folder_url):
    store = ObjectStore(folder_url)
    folder = write_checkpoint(tmp_path, 4)
    store.upload(folder)
    (folder / "state.json").unlink()
    assert store.fetch_newest(tmp_path, accept) == [f"fetched {folder_url}/step-00000004"]
    assert find_problem(folder) is None


def test_copy_that_fails_is_told_and_the_checkpoint_here_stays(tmp_path, folder_url, monkeypatch):
    def refuse(self, folder):
        raise OSError("no route to host")

    monkeypatch.setattr(ObjectStore, "upload", refuse)
    said = []
    writer = open_writer(tmp_path, said, store=ObjectStore(folder_url))
    writer.save(pieces(), {"step": 1})
    with pytest.raises(StorageError, match=r"step-00000002: whole, but not copied to checkpoint.dir=file://.*no route"):
        writer.save(pieces(), {"step": 2}, last=True)
    assert len(said) == 1
    assert [find_problem(folder_of(tmp_path, step)) for step in list_steps(tmp_path)] == [None, None]
    monkeypatch.undo()
    ObjectStore(folder_url).upload_if_missing(folder_of(tmp_path, 2))
    assert ObjectStore(folder_url).steps() == [2]


def test_store_that_can_t_be_opened_is_refused_in_a_line(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint.dir=nothing://x: .*banyan-train\[s3\]"):
        ObjectStore("nothing://x").fetch_newest(tmp_path, accept)


def pretrain_with(arguments):
    """The verb, with these variables: ranks are forked from a server that has those of its own start."""
    config, variables = arguments
    os.environ.update(variables)
    return pretrain(config)


def aws():
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def test_run_goes_on_from_a_bucket_when_its_directory_is_lost(corpus, tmp_path, bucket_url):
    config = small_config(corpus, tmp_path / "run", checkpoint__every=2, checkpoint__dir=bucket_url)
    config.parallel.zero_stage, config.train.stop_at = 1, 6
    assert run_ranks(pretrain_with, (config, aws()), 2) == [85, 85]
    shutil.rmtree(tmp_path / "run")
    config.train.stop_at = None
    assert run_ranks(pretrain_with, (config, aws()), 2) == [0, 0]
    assert read_metrics(tmp_path / "run")[0]["step"] == 7
    calm = small_config(corpus, tmp_path / "calm", parallel__zero_stage=1)
    assert run_ranks(pretrain, calm, 2) == [0, 0]
    assert_equal_states(tmp_path / "calm", tmp_path / "run")


def test_bucket_that_isn_t_there_is_refused(corpus, tmp_path, bucket_url):
    config = small_config(corpus, tmp_path / "run", checkpoint__dir="s3://elsewhere/one")
    codes, errors = fail_ranks(pretrain_with, (config, aws()))
    assert codes == [2]
    assert "checkpoint.dir=s3://elsewhere/one: can't be written" in errors[0]
