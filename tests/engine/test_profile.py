"""train.profile: traces of the steps that were asked for, of the ranks that were; what is learnt doesn't change."""

import gzip
import json

import pytest

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.engine.profile_files import read_operators, trace_files
from trainer.errors import ConfigError
from trainer.rules.pretrain import check_pretrain

STAGES = [pytest.param(0, marks=pytest.mark.full), pytest.param(1, marks=pytest.mark.full), 2]
STAGES += [pytest.param(3, marks=pytest.mark.full)]


@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_weights_are_the_same_bit_for_bit(corpus, tmp_path, stage):
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    changes = {"parallel__zero_stage": stage, "train__steps": 6}
    assert run_ranks(pretrain, small_config(corpus, plain, **changes), 2) == [0, 0]
    changes |= {"train__profile": [1, 2], "train__profile_ranks": [1]}
    assert run_ranks(pretrain, small_config(corpus, profiled, **changes), 2) == [0, 0]
    assert_equal_states(plain, profiled)
    assert [row["train/loss"] for row in read_metrics(plain)] == [row["train/loss"] for row in read_metrics(profiled)]
    assert not (plain / "profile").exists()
    assert trace_files(profiled) == ["steps-1-2/rank-00001.trace.json.gz"]
    (table,) = read_operators(profiled)
    assert (table.rank, table.steps) == (1, "1-2")
    assert table.operators[0].self_cpu_us >= table.operators[-1].self_cpu_us > 0
    with gzip.open(profiled / "profile" / trace_files(profiled)[0]) as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) > 10


@pytest.mark.parametrize(
    ("profile", "ranks", "said"),
    [
        ([3], [], "give the first and the last step"),
        ([5, 4], [], "give the first and the last step"),
        ([0, 4], [], "give the first and the last step"),
        ([1, 1000], [], "a trace holds 100 steps at most"),
        ([1, 2], [2], "ranks are 0 to 1"),
        ([], [0], "give train.profile="),
    ],
)
def test_steps_and_ranks_that_there_arent_are_refused(corpus, tmp_path, profile, ranks, said):
    config = small_config(corpus, tmp_path, train__profile=profile, train__profile_ranks=ranks)
    with pytest.raises(ConfigError, match=said):
        check_pretrain(config, 2)
