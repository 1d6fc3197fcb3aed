"""Which share of prepare an element of a job array takes."""

import pytest

from launch.slurm.array import share_of
from trainer.data.text.shared_work import WorkShare
from trainer.errors import ConfigError

ARRAY = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}


def test_an_element_begins_with_its_own_share():
    shares = [share_of({**ARRAY, "SLURM_ARRAY_TASK_ID": str(number)}) for number in (3, 4, 5, 6)]
    assert shares == [WorkShare(number, 4, f"12_{number + 3}") for number in range(4)]
    assert share_of({**ARRAY, "SLURM_ARRAY_TASK_ID": "103"}).number < 4


def test_outside_of_an_array_there_are_no_shares():
    assert share_of({"SLURM_JOB_ID": "12"}) is None


@pytest.mark.parametrize("change", [{"SLURM_ARRAY_TASK_ID": "x"}, {}])
def test_an_array_that_cannot_be_is_refused(change):
    with pytest.raises(ConfigError, match="SLURM_ARRAY_JOB_ID=12, but"):
        share_of({**ARRAY, **change})
