"""The writer: checkpoints are copies, come into being whole, one after the other, and a failure harms none."""

import json
import threading
import time

import pytest
import torch

from tests.checkpoint.written import WEIGHT, open_writer, pieces, region, write_checkpoint
from trainer.checkpoint import job as writing
from trainer.checkpoint.find import find_newest, find_problem
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.reader import CheckpointReader
from trainer.checkpoint.retention import retain
from trainer.checkpoint.writer import CheckpointWriter
from trainer.errors import StorageError


@pytest.fixture
def held(monkeypatch):
    """An event without which no file is written."""
    release = threading.Event()
    write = writing.write_rank

    def wait(*arguments):
        assert release.wait(30)
        write(*arguments)

    monkeypatch.setattr(writing, "write_rank", wait)
    yield release
    release.set()


def test_snapshot_is_a_copy_that_training_can_t_reach(tmp_path, held):
    live = WEIGHT.clone()
    writer = open_writer(tmp_path)
    writer.save([Fragment("odd", region(0, 63), {"fp32": live})], {"step": 3})
    live.zero_()
    assert list_steps(tmp_path) == []
    held.set()
    writer.save(pieces(), {"step": 4}, last=True)
    assert list_steps(tmp_path) == [3, 4]
    stored = CheckpointReader(folder_of(tmp_path, 3)).read("odd", "fp32", region(0, 63))
    assert torch.equal(stored, WEIGHT)


def test_next_save_waits_for_a_slow_disk(tmp_path, held):
    writer = open_writer(tmp_path)
    writer.save(pieces(), {"step": 1})
    threading.Timer(0.3, held.set).start()
    began = time.perf_counter()
    writer.save(pieces(), {"step": 2}, last=True)
    assert time.perf_counter() - began > 0.25
    assert [find_problem(folder_of(tmp_path, step)) for step in (1, 2)] == [None, None]


def test_synchronous_save_is_durable_when_it_returns(tmp_path):
    open_writer(tmp_path, asynchronous=False).save(pieces(), {"step": 1})
    assert find_problem(folder_of(tmp_path, 1)) is None


@pytest.mark.parametrize("asynchronous", [True, False])
def test_crash_in_the_writer_keeps_the_former_and_the_next_save_tries_again(tmp_path, monkeypatch, asynchronous):
    said = []
    writer = open_writer(tmp_path, said, asynchronous=asynchronous)
    writer.save(pieces(), {"step": 1})
    writer._settle()
    with monkeypatch.context() as patch:
        patch.setattr(writing, "complete", lambda job: 1 / 0)
        writer.save(pieces(), {"step": 2})
        writer._settle()
    assert len(said) == 1
    assert "step-00000002: not written (division by zero)" in said[0]
    assert "next save tries again" in said[0]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001"]
    writer.save(pieces(), {"step": 3}, last=True)
    assert list_steps(tmp_path) == [1, 3]


def test_last_save_that_fails_is_an_error(tmp_path):
    (tmp_path / "checkpoints").touch()
    said = []
    writer = open_writer(tmp_path, said)
    writer.save(pieces(), {"step": 1})
    assert "step-00000001: not written" in said[0]
    with pytest.raises(StorageError, match="step-00000002: not written"):
        writer.save(pieces(), {"step": 2}, last=True)
    assert len(said) == 1


def test_elements_that_no_rank_wrote_fail_the_save(tmp_path):
    """And as many that two wrote, so that their number is right: the run still has them, and says so now."""
    write_checkpoint(tmp_path, 1)
    said = []
    parts = [pieces()[0].share(number, 9) for number in range(9)]
    with pytest.raises(StorageError, match=r"odd \(fp32\): elements 7 to 14 of it are missing\); earlier checkpoints"):
        open_writer(tmp_path, said).save([*parts[:1], *parts[2:], parts[3]], {"step": 2}, last=True)
    with pytest.raises(StorageError, match=r"odd \(fp32\): elements 7 to 14 of it are twice"):
        open_writer(tmp_path, said).save([*parts, parts[1]], {"step": 2}, last=True)
    assert list_steps(tmp_path) == [1]
    open_writer(tmp_path).save(parts, {"step": 2}, last=True)
    assert list_steps(tmp_path) == [1, 2]


def test_error_on_its_way_out_waits_for_what_is_being_written(tmp_path, held):
    def fail():
        with open_writer(tmp_path) as writer:
            writer.save(pieces(), {"step": 1})
            threading.Timer(0.2, held.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list_steps(tmp_path) == [1]


def write_on_two_ranks(folder):
    """Saves steps 1 to 3; rank 1 can't write its files of step 2, nor say so."""
    from pathlib import Path

    from trainer.config import Checkpoint
    from trainer.ranks.mesh import join

    mesh = join()
    mine = pieces(40)[mesh.rank :: 2]
    write = writing.write_rank

    def fail(job):
        if job.rank == 1 and "step-00000002" in job.attempt.name:
            raise OSError(28, "No space left on device")
        write(job)

    writing.write_rank = fail
    before = Path.write_bytes
    Path.write_bytes = lambda path, content: before(path, content) if path.suffix != ".failed~" else 1 / 0
    said = []
    writer = CheckpointWriter(folder, mesh, Checkpoint(keep=9, writers=1), said.append)
    for step in (1, 2, 3):
        writer.save(mine, {"step": step}, last=step == 3)
    newest, _ = find_newest(folder, mesh)
    (folder / f"said-{mesh.rank}").write_text(json.dumps([str(newest), *said]))
    mesh.leave()
    return 0


def test_rank_that_can_t_even_say_so_fails_the_save_for_all(tmp_path):
    from tests.run_ranks import run_ranks

    assert run_ranks(write_on_two_ranks, tmp_path, 2) == [0, 0]
    assert list_steps(tmp_path) == [1, 3]
    newest, *said = json.loads((tmp_path / "said-0").read_text())
    assert newest == str(folder_of(tmp_path, 3))
    assert len(said) == 1
    assert "step-00000002: not written (" in said[0]
    whole = CheckpointReader(folder_of(tmp_path, 3)).read_whole("odd", "fp32")
    assert torch.equal(whole.view(-1), WEIGHT)
    assert not list((tmp_path / "checkpoints").glob("*.partial-*"))


def test_replicas_share_the_writing_without_gap_or_overlap():
    whole = pieces()[0]
    shares = [whole.share(rank, 4) for rank in range(4)]
    assert [share.region.start for share in shares] == [0, *[share.region.stop for share in shares[:-1]]]
    assert shares[-1].region.stop == 63
    assert torch.equal(torch.cat([share.views["fp32"] for share in shares]), WEIGHT)


def test_retention_never_counts_or_removes_broken_ones(tmp_path):
    for step in (1, 2, 3, 4, 5, 6):
        write_checkpoint(tmp_path, step)
    (folder_of(tmp_path, 6) / "COMPLETE").unlink()
    retain(tmp_path, keep=1, keep_every=2, best=3)
    assert list_steps(tmp_path) == [2, 3, 4, 5, 6]


def test_complete_names_every_file(tmp_path):
    folder = write_checkpoint(tmp_path, 9)
    listed = json.loads((folder / "COMPLETE").read_text())["files"]
    assert set(listed) == {path.name for path in folder.iterdir()} - {"COMPLETE"}
