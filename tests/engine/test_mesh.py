"""Joining the ranks."""

from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

from tests.ranks import pretrain, run_ranks, small_config


def test_lock_file_left_by_a_killed_process_holds_nobody_up(corpus, tmp_path):
    (folder,) = Path(get_default_build_root()).glob("**/deepspeed_shm_comm")
    (folder / "lock").touch()
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "run"), 2) == [0, 0]
    assert not (folder / "lock").exists()
