"""A disk that is full in the middle of training: it is said, nothing is lost, and with room made the run goes on."""

import subprocess

import pytest

from tests.cluster.slurm.conftest import give_up
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.checkpoint.find import find_problem
from trainer.checkpoint.folders import folder_of, list_steps

ENOUGH, LITTLE = "64m", "2m"  # the second has room for a checkpoint of two


@pytest.fixture
def disk(tmp_path):
    """A file system of LITTLE bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={LITTLE}", "tmpfs", folder], check=False).returncode:
        give_up("nothing can be mounted here: run as root with CAP_SYS_ADMIN")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("stage", "asynchronous"),
    [(2, True), *(pytest.param(*case, marks=pytest.mark.full) for case in [(0, True), (3, True), (2, False)])],
)
def test_a_full_disk_ends_a_run_that_goes_on_once_there_is_room(corpus, tmp_path, disk, stage, asynchronous):
    usual = {"parallel__zero_stage": stage, "train__steps": 12, "checkpoint__every": 4}
    usual |= {"checkpoint__asynchronous": asynchronous, "checkpoint__keep": 3}
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "calm", **usual), 2) == [0, 0]
    config = small_config(corpus, disk / "run", **usual)
    codes, errors = fail_ranks(pretrain, config, 2)
    assert all(codes), codes
    assert any("full" in error or "No space left" in error for error in errors), errors
    whole = list_steps(disk / "run")
    assert whole
    assert not any(find_problem(folder_of(disk / "run", step)) for step in whole)
    subprocess.run(["mount", "-o", f"remount,size={ENOUGH}", disk], check=True)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    assert_equal_states(tmp_path / "calm", disk / "run")
    assert [row["step"] for row in read_metrics(disk / "run")] == list(range(1, 13))
