"""health.recheck: a transient fault of a device is told from a persistent one of the data, and the rank named."""

import os

import pytest

from tests.engine.bad_data import FAULTY_POSITION, Planted, with_a_faulty_device
from tests.printed import Printing, printed_lines
from tests.run_ranks import run_ranks, small_config


def lines_of(corpus, folder, work, stage):
    config = small_config(
        corpus,
        folder,
        train__steps=7,
        parallel__zero_stage=stage,
        model__dropout=0.1,
        health__on_spike="skip",
        health__recheck=True,
    )
    assert run_ranks(Printing(work, folder.with_suffix(".out")), config, 2) == [0, 0]
    return [line for line in printed_lines(folder.with_suffix(".out")) if "recheck" in line]


def check_both(corpus, folder, stage):
    (line,) = lines_of(corpus, folder / "transient", with_a_faulty_device, stage)
    assert f"step 5: recheck: transient: rank 1 ({os.uname().nodename}, cpu) got other bits for the losses of 1" in line
    (line,) = lines_of(corpus, folder / "persistent", Planted({FAULTY_POSITION: float("nan")}), stage)
    assert "step 5: recheck: persistent" in line
    assert f"not finite on rank 1 ({os.uname().nodename}, cpu)" in line


def test_a_faulty_device_is_told_from_bad_data(corpus, tmp_path):
    check_both(corpus, tmp_path, 2)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 3])
def test_a_faulty_device_is_told_from_bad_data_at_other_stages(corpus, tmp_path, stage):
    check_both(corpus, tmp_path, stage)
