"""Checkpoints in an object store: fetched when newer, checked by hash. moto's server stands in for S3."""

import os
import shutil
import signal
import uuid
from itertools import pairwise

import pytest
import torch

from tests.checkpoint.written import (
    WEIGHT,
    Alone,
    open_writer,
    pieces,
    run_as_ranks,
    write_as_ranks,
    write_checkpoint,
)
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.checkpoint import object_store, transfer
from trainer.checkpoint.complete import in_order, read_complete
from trainer.checkpoint.find import find_problem
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.object_store import UPLOADING, ObjectStore, names_of_share
from trainer.checkpoint.reader import CheckpointReader
from trainer.errors import ConfigError, StorageError
from trainer.model.region import Region


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

    s3fs.S3FileSystem.clear_instance_cache()  # they know a former test's server
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
    assert ObjectStore(url).fetch_newest(tmp_path / "here", Alone(), accept) == []

    write_checkpoint(tmp_path / "there", 2)
    assert ObjectStore(url).fetch_newest(tmp_path / "there", Alone(), accept) == [f"fetched {url}/step-00000003"]
    assert list_steps(tmp_path / "there") == [2, 3]
    whole = CheckpointReader(folder_of(tmp_path / "there", 3)).read_whole("odd", "fp32")
    assert torch.equal(whole.view(-1), WEIGHT)


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no COMPLETE"])
def test_what_is_not_whole_there_is_passed_over(tmp_path, folder_url, damage):
    store = ObjectStore(folder_url)
    for step in (1, 2):
        store.upload_if_missing(write_checkpoint(tmp_path / "here", step), Alone())
    tensors = tmp_path / "store" / "step-00000002" / "rank-00000.safetensors"
    content = bytearray(tensors.read_bytes())
    if damage == "flip":
        content[-9] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut":
        tensors.write_bytes(content[:-9])
    else:
        (tensors if damage == "missing" else tensors.with_name("COMPLETE")).unlink()
    lines = store.fetch_newest(tmp_path / "there", Alone(), accept)
    assert lines[-1] == f"fetched {folder_url}/step-00000001"
    assert len(lines) == (1 if damage == "no COMPLETE" else 2)
    assert sorted(path.name for path in (tmp_path / "there" / "checkpoints").iterdir()) == ["step-00000001"]


def test_whole_one_there_replaces_a_broken_one_here(tmp_path, folder_url):
    store = ObjectStore(folder_url)
    folder = write_checkpoint(tmp_path, 4)
    store.upload_if_missing(folder, Alone())
    (folder / "state.json").unlink()
    assert store.fetch_newest(tmp_path, Alone(), accept) == [f"fetched {folder_url}/step-00000004"]
    assert find_problem(folder) is None


def test_copy_that_fails_is_told_and_the_checkpoint_here_stays(tmp_path, folder_url, monkeypatch):
    def refuse(self, folder, rank, ranks):
        raise OSError("no route to host")

    monkeypatch.setattr(ObjectStore, "upload_share", refuse)
    said = []
    writer = open_writer(tmp_path, said, store=ObjectStore(folder_url))
    writer.save(pieces(), {"step": 1})
    with pytest.raises(StorageError, match=r"step-00000002: whole, but not copied to checkpoint.dir=file://.*no route"):
        writer.save(pieces(), {"step": 2}, last=True)
    assert len(said) == 1
    assert [find_problem(folder_of(tmp_path, step)) for step in list_steps(tmp_path)] == [None, None]
    monkeypatch.undo()
    ObjectStore(folder_url).upload_if_missing(folder_of(tmp_path, 2), Alone())
    assert ObjectStore(folder_url).steps() == [2]


def test_store_that_can_t_be_opened_is_refused_in_a_line(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint.dir=nothing://x: .*banyan-train\[s3\]"):
        ObjectStore("nothing://x").fetch_newest(tmp_path, Alone(), accept)


def large(ranks):
    """Fragments of a parameter of 0.8 MB by rank."""
    weight = torch.randn(100_000, generator=torch.Generator().manual_seed(3))
    edges = [len(weight) * rank // ranks for rank in range(ranks + 1)]
    regions = [Region((100_000,), None, start, stop) for start, stop in pairwise(edges)]
    return [[Fragment("large", region, {kind: region.cut(weight) for kind in ("fp32", "ema")})] for region in regions]


@pytest.fixture
def copied(monkeypatch):
    """Names of files as they are copied, there or here."""
    names = []

    def noted(function, place):
        def act(*arguments):
            names.append(arguments[place].name)
            return function(*arguments)

        return act

    monkeypatch.setattr(object_store, "upload_file", noted(object_store.upload_file, 1))
    monkeypatch.setattr(object_store, "fetch_file", noted(object_store.fetch_file, 2))
    return names


@pytest.mark.parametrize("writers", [0, 2])
def test_every_rank_copies_and_fetches_its_share(tmp_path, folder_url, copied, writers):
    folder = write_as_ranks(tmp_path / "run", 7, large(5), writers=writers, store=ObjectStore(folder_url))
    files = sorted(path.name for path in folder.iterdir() if path.name != "COMPLETE")
    assert sorted(copied) == files
    there = tmp_path / "store" / "step-00000007"
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    copied.clear()
    found = run_as_ranks(3, lambda mesh: ObjectStore(folder_url).fetch_newest(tmp_path / "other", mesh, accept))
    assert found == [[f"fetched {folder_url}/step-00000007"]] * 3
    assert sorted(copied) == files
    assert find_problem(folder_of(tmp_path / "other", 7)) is None
    assert [path.name for path in (tmp_path / "other" / "checkpoints").iterdir()] == ["step-00000007"]


def test_a_rank_whose_share_fails_leaves_no_complete(tmp_path, folder_url, monkeypatch):
    upload = ObjectStore.upload_share

    def fail(self, folder, rank, ranks):
        if rank == 2:
            raise OSError("no route to host")
        upload(self, folder, rank, ranks)

    monkeypatch.setattr(ObjectStore, "upload_share", fail)
    store = ObjectStore(folder_url)
    with pytest.raises(AssertionError, match=r"whole, but not copied to checkpoint.dir=.*rank 2: no route to host"):
        write_as_ranks(tmp_path / "run", 7, large(4), store=store)
    assert store.steps() == []
    monkeypatch.undo()
    problems = run_as_ranks(2, lambda mesh: store.upload_if_missing(folder_of(tmp_path / "run", 7), mesh))
    assert problems == [None, None]
    assert store.steps() == [7]


@pytest.mark.parametrize(("files", "ranks"), [(9, 4), (7, 4), (5, 64), (11, 8), (4099, 4096), (1, 1)])
def test_shares_are_each_file_once(files, ranks):
    names = [str(number) for number in range(files)]
    shares = [names_of_share(names, rank, ranks) for rank in range(ranks)]
    assert sorted(name for share in shares for name in share) == sorted(names)
    assert max(map(len, shares)) <= -(-files // ranks)


def test_a_rank_copies_what_it_wrote(tmp_path):
    folder = write_as_ranks(tmp_path, 7, large(5))
    names = in_order(read_complete(folder))
    assert [names_of_share(names, rank, 5)[0] for rank in range(5)] == [
        f"rank-{rank:05d}.safetensors" for rank in range(5)
    ]


def copy_and_die(arguments):
    """Copies a checkpoint to a store, or fetches it, and is killed before the `last` request of a kind."""
    variables, url, action, place, last = arguments
    os.environ.update(variables)
    transfer.CHUNK = 2**16
    store = ObjectStore(url)
    files, _ = store._open()
    kind = "put_file" if action == "copy" else "cat_file"
    request, count = getattr(files, kind), [0]

    def kill(*given, **options):
        count[0] += "rank-" in str(given[0])
        if count[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return request(*given, **options)

    setattr(files, kind, kill)
    if action == "copy":
        store.upload_if_missing(place, Alone())
    else:
        store.fetch_newest(place, Alone(), accept)
    return 0


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_copy_that_was_killed_goes_on_with_what_is_there(tmp_path, request, kind):
    url = request.getfixturevalue(f"{kind}_url")
    folder = write_as_ranks(tmp_path / "run", 7, large(6))
    assert run_ranks(copy_and_die, (aws(), url, "copy", folder, 4), 1) == [-signal.SIGKILL]
    store = ObjectStore(url)
    files, root = store._open()
    assert store.steps() == []
    assert store.fetch_newest(tmp_path / "other", Alone(), accept) == []
    before = {
        path.name: files.modified(f"{root}/step-00000007/{path.name}") for path in sorted(folder.glob("rank*"))[:3]
    }
    store.upload_if_missing(folder, Alone())
    assert {name: files.modified(f"{root}/step-00000007/{name}") for name in before} == before
    assert store.steps() == [7]
    assert not files.exists(f"{root}/step-00000007/{UPLOADING}")
    store.fetch_newest(tmp_path / "other", Alone(), accept)
    assert find_problem(folder_of(tmp_path / "other", 7)) is None


def test_a_run_that_goes_on_finishes_the_copy_that_was_killed(tmp_path, folder_url, copied):
    folder = write_as_ranks(tmp_path / "run", 7, large(6))
    assert run_ranks(copy_and_die, (aws(), folder_url, "copy", folder, 4), 1) == [-signal.SIGKILL]
    store, said = ObjectStore(folder_url), []
    elsewhere = write_checkpoint(tmp_path / "elsewhere", 6)
    with open_writer(tmp_path / "run", said, store=store) as writer:
        writer.copy_again(elsewhere)  # what the run was forked from is another's
        assert writer._job is None
        writer.copy_again(folder)
    assert store.steps() == [7]
    assert len(copied) == len(set(copied)) == 8
    with open_writer(tmp_path / "run", said, store=store) as writer:
        writer.copy_again(folder)
        assert writer._job is None  # it is there
        writer.save(pieces(), {"step": 8}, last=True)
    assert store.steps() == [7, 8]
    assert list_steps(tmp_path / "run") == [7, 8]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    assert not said


def test_files_of_another_checkpoint_of_the_step_are_copied_anew(tmp_path, folder_url):
    folder = write_as_ranks(tmp_path / "run", 7, large(6))
    assert run_ranks(copy_and_die, (aws(), folder_url, "copy", folder, 4), 1) == [-signal.SIGKILL]
    shutil.rmtree(folder)
    by_rank = [[Fragment(each.parameter, each.region, {"fp32": -each.views["fp32"], "ema": each.views["ema"]})]
               for (each,) in large(6)]  # fmt: skip
    folder = write_as_ranks(tmp_path / "run", 7, by_rank)
    store = ObjectStore(folder_url)
    store.upload_if_missing(folder, Alone())
    store.fetch_newest(tmp_path / "other", Alone(), accept)
    assert find_problem(folder_of(tmp_path / "other", 7)) is None


@pytest.mark.parametrize(
    ("kind", "damage"),
    [("bucket", None), *(("folder", damage) for damage in (None, "flip", "longer", "link", "another COMPLETE"))],
)
def test_a_fetch_that_was_killed_goes_on_with_what_is_here(tmp_path, request, monkeypatch, kind, damage):
    url = request.getfixturevalue(f"{kind}_url")
    store = ObjectStore(url)
    folder = write_as_ranks(tmp_path / "run", 7, large(2), store=store)  # two files of 0.4 MB, 7 requests each
    other = tmp_path / "other"
    assert run_ranks(copy_and_die, (aws(), url, "fetch", other, 11), 1) == [-signal.SIGKILL]
    attempt = other / "checkpoints" / "step-00000007.partial-fetched" / "step-00000007"
    assert (attempt / "rank-00000.safetensors").stat().st_size == read_complete(folder)["rank-00000.safetensors"].bytes
    begun = attempt / "rank-00001.safetensors"
    assert begun.stat().st_size == 3 * 2**16
    assert find_problem(attempt) is not None
    if damage == "flip":
        begun.write_bytes(b"\0" * 3 * 2**16)
    elif damage == "longer":
        begun.write_bytes(b"\0" * 10**6)
    elif damage == "link":
        begun.unlink()
        begun.symlink_to(tmp_path / "victim")
    elif damage == "another COMPLETE":
        (attempt / "COMPLETE").write_text("{}")
    monkeypatch.setattr(transfer, "CHUNK", 2**16)
    files, _ = store._open()
    fetch, fetched = files.cat_file, []
    monkeypatch.setattr(
        files, "cat_file", lambda path, **options: fetched.append(path) or fetch(path, **options), raising=False
    )
    assert store.fetch_newest(other, Alone(), accept) == [f"fetched {url}/step-00000007"]
    assert find_problem(folder_of(other, 7)) is None
    assert not (tmp_path / "victim").exists()
    assert len(list((other / "checkpoints").iterdir())) == 1
    requests = sum("rank-" in path for path in fetched)
    assert requests == {None: 4, "flip": 4 + 7, "longer": 7, "link": 7, "another COMPLETE": 14}[damage]


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
