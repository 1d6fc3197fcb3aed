"""What a user reads whose driver is too old for torch."""

import torch

from trainer.ranks.driver import driver_problem

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver.\nOr else."


def test_the_driver_that_is_needed_and_both_ways_out_are_named_in_a_line():
    told = driver_problem("13.0", TOO_OLD)
    assert "\n" not in told
    assert f"torch {torch.__version__} (CUDA 13.0): The NVIDIA driver on your system is too old" in told
    assert "driver 580 or newer" in told
    assert "download.pytorch.org/whl/cu126" in told


def test_an_older_build_names_its_own_driver_and_no_other_build():
    told = driver_problem("12.6", TOO_OLD)
    assert "driver 525 or newer" in told
    assert "whl" not in told


def test_what_is_not_known_is_not_made_up():
    assert "another driver" in driver_problem("None", "")
