"""checkpoint.every=auto: the interval that loses least, the same on every rank, and kept by a run that goes on."""

import json
import math

import pytest

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.checkpoint.interval import FIRST, daly_interval, decide_interval
from trainer.errors import ConfigError
from trainer.rules.pretrain import check_pretrain


def lost(interval, stall, mtbf):
    """Share of the time that isn't work: Daly's exponential model, without the time of a restart."""
    return mtbf * math.expm1((interval + stall) / mtbf) / interval - 1


@pytest.mark.parametrize(("stall", "mtbf"), [(0.05, 3600.0), (30.0, 3600.0), (300.0, 7200.0), (900.0, 3600.0)])
def test_the_interval_loses_least(stall, mtbf):
    best = daly_interval(stall, mtbf)
    tried = [best * factor for factor in (0.5, 0.8, 0.95, 1.05, 1.25, 2.0)]
    assert lost(best, stall, mtbf) <= min(lost(interval, stall, mtbf) for interval in tried) * 1.001


def test_its_first_term_is_youngs():
    assert daly_interval(1.0, 1e6) == pytest.approx(math.sqrt(2e6), rel=1e-3)


def test_an_interval_stays_unless_another_is_clearly_better():
    every = decide_interval(20, stall_s=2.0, step_s=1.0, mtbf_s=36000.0, before=None).every
    assert decide_interval(40, stall_s=2.4, step_s=1.0, mtbf_s=36000.0, before=every).every == every
    assert decide_interval(40, stall_s=8.0, step_s=1.0, mtbf_s=36000.0, before=every).every == pytest.approx(
        2 * every, rel=0.02
    )


def due_steps(first, decisions, until):
    """Steps of checkpoints after `first` that these decisions ask for."""
    steps, step = [], first
    while True:
        every = next((one["every"] for one in reversed(decisions) if one["step"] <= step), FIRST)
        step += every
        if step >= until:
            return steps
        steps.append(step)


def test_a_run_saves_as_it_decided_and_goes_on_so(corpus, tmp_path):
    changes = {"checkpoint__every": "auto", "checkpoint__mtbf_hours": 0.002, "checkpoint__keep": 1000}
    changes |= {"train__steps": 80, "checkpoint__asynchronous": False}
    config = small_config(corpus, tmp_path / "run", train__stop_at=47, **changes)
    assert run_ranks(pretrain, config, 2) == [85, 85]
    first = json.loads((tmp_path / "run" / "checkpoint_interval.json").read_text())["decisions"]
    assert first[0]["step"] == FIRST
    assert first[0]["mtbf_s"] == pytest.approx(7.2)  # both ranks are on one node
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "run", **changes), 2) == [0, 0]
    decisions = json.loads((tmp_path / "run" / "checkpoint_interval.json").read_text())["decisions"]
    assert decisions[: len(first)] == first
    steps = [int(path.name.removeprefix("step-")) for path in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))]
    assert steps == [*due_steps(0, first, 47), 47, *due_steps(47, decisions, 80), 80]
    plain = small_config(corpus, tmp_path / "plain", train__steps=80, checkpoint__every=0)
    assert run_ranks(pretrain, plain, 2) == [0, 0]
    losses = [{row["step"]: row["train/loss"] for row in read_metrics(tmp_path / name)} for name in ("run", "plain")]
    assert losses[0][80] == losses[1][80]


def test_another_word_is_refused_in_one_line(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", checkpoint__every="often")
    with pytest.raises(ConfigError, match=r"checkpoint\.every=often: give a number of steps, or auto"):
        check_pretrain(config, 1)
