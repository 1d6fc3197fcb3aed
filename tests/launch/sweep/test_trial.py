"""A trial on disk, and how its metrics are followed."""

import dataclasses
import json

import pytest

from launch.sweep.best import difference
from launch.sweep.plan import SweepPlan
from launch.sweep.process import Follower, error_in
from launch.sweep.results import best_of, collect_results, common_tokens, importance_of
from launch.sweep.space import Distribution
from launch.sweep.trial import FINISHED, STOPPED, Trial, all_trials


@pytest.fixture
def plan(tmp_path):
    return SweepPlan(
        dir=str(tmp_path),
        name="s",
        overrides=(),
        config_dir=None,
        cwd="/",
        metric="eval/validation/loss",
        every=2,
        steps=10,
        ranks=1,
        threads=1,
        has_segments=True,
        reports_saved=True,
        identity={},
    )


def write_rows(run_dir, losses):
    run_dir.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "tokens": 10 * step, "eval/validation/loss": loss} for step, loss in losses.items()]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_trial_is_what_its_folder_says(plan):
    trial = Trial.open(plan, 3)
    assert (trial.state, trial.values) == ("waiting", {})
    trial.begin({"optimizer.lr": "0.1"})
    trial.begin({"optimizer.lr": "0.2"}, fork_from="/donor@4")
    assert trial.run_dir.name == "segment-01"
    assert Trial.open(plan, 3).values == {"optimizer.lr": "0.2"}
    trial.mark_stopped()
    assert Trial.open(plan, 3).state == STOPPED
    trial.write(FINISHED)
    assert Trial.open(plan, 3).state == FINISHED
    assert [trial.number for trial in all_trials(plan)] == [3]


def test_points_of_a_trial_that_went_on_from_another(plan):
    """The first segment overshot the step that the second began at, and had been further than it."""
    trial = Trial.open(plan, 0)
    trial.begin({})
    write_rows(trial.run_dir, {2: 9.0, 4: 8.0, 6: 7.9})
    trial.begin({}, fork_from="/donor@4")
    write_rows(trial.run_dir, {6: 5.0, 8: 4.0})
    assert [(point.step, point.loss) for point in trial.points(plan)] == [(2, 9.0), (4, 8.0), (6, 5.0), (8, 4.0)]


def test_rows_are_followed_across_a_cut_and_none_is_told_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path, after_step=1)
    assert follower.rows() == []
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 1}\n{"step": 2, "b"')
    assert follower.rows() == [{"step": 2, "a": 1}]
    with path.open("a") as file:
        file.write(": 2}\n")
    assert follower.rows() == [{"step": 2, "b": 2}]  # of the same step
    replacement = tmp_path / "new"
    replacement.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 1}\n{"step": 3, "a": 1}\n')
    replacement.replace(path)
    assert follower.rows() == [{"step": 3, "a": 1}]


def test_the_error_of_a_log_is_the_line_that_says_banyan(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("step 1\nbanyan: step 3: the loss is nan.\nexit\n")
    assert error_in(log) == "step 3: the loss is nan."
    assert error_in(tmp_path / "none") == ""


def test_the_best_is_the_lowest_end_of_those_that_went_to_the_end(plan):
    for number, (state, losses) in enumerate(
        [(FINISHED, {2: 5.0, 10: 3.0}), (FINISHED, {2: 2.0, 10: 4.0}), (STOPPED, {2: 1.0})]
    ):
        trial = Trial.open(plan, number)
        trial.begin({"optimizer.lr": "0.1"})
        write_rows(trial.run_dir, losses)
        trial.write(state)
    results = collect_results(plan, all_trials(plan))
    assert best_of(results).number == 0
    assert common_tokens(results) == 20
    assert [result.loss_after(20) for result in results] == [5.0, 2.0, 1.0]
    assert best_of([]) is None


def test_importance_goes_to_the_parameter_that_matters(plan):
    space = {
        "optimizer.lr": Distribution("loguniform", 1e-4, 1e-1),
        "optimizer.beta1": Distribution("uniform", 0.5, 0.9),
    }
    for number in range(24):
        lr, beta = 10 ** (-4 + 3 * number / 23), 0.5 + 0.4 * ((number * 7) % 24) / 23
        trial = Trial.open(plan, number)
        trial.begin({"optimizer.lr": repr(lr), "optimizer.beta1": repr(beta)})
        write_rows(trial.run_dir, {2: abs(number - 20.0)})
        trial.write(FINISHED)
    results = collect_results(plan, all_trials(plan))
    shares = importance_of(results, space)
    assert shares["optimizer.lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert importance_of(results[:3], space) == {}


def test_what_differs_is_kept_nested():
    old = {"a": {"b": 1, "c": {}}, "d": None}
    assert difference(old, {"a": {"b": 1, "c": {"x": {"path": "p"}}}, "d": [1]}) == {
        "a": {"c": {"x": {"path": "p"}}},
        "d": [1],
    }


def test_of_a_task_s_accuracy_a_high_one_is_good(plan):
    for metric, good in (("eval/arc_easy/acc", True), ("eval/gsm8k/exact_match,strict-match", True)):
        other = dataclasses.replace(plan, metric=metric)
        assert (other.prefers_high, other.label) == (good, f"-{metric}")
        assert other.loss_in({metric: 0.7}) == -0.7
    for metric in ("eval/validation/loss", "eval/code/bits_per_byte", "train/loss", "eval/wiki/word_perplexity"):
        other = dataclasses.replace(plan, metric=metric)
        assert (other.prefers_high, other.label, other.loss_in({metric: 3.0})) == (False, metric, 3.0)
        assert other.loss_in({}) is None
