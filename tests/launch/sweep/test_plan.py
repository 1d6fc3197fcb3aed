"""What a sweep tells its trials, what it refuses before Ray is started, and what makes it the same sweep."""

import dataclasses
import subprocess
import sys

import pytest

from launch.cli import Options
from launch.compose import compose
from launch.sweep import checks
from launch.sweep.ladder import count_parameters, rungs_of
from launch.sweep.plan import SweepPlan, split_overrides
from launch.sweep.points import points_to_try
from launch.sweep.recipe import settle
from trainer.config import Ladder
from trainer.errors import ConfigError


@pytest.fixture
def small(corpus, tmp_path):
    """Overrides of a sweep in a folder of its own."""
    return [
        *(f"data.path={corpus}", "data.sequence_length=32", f"search.dir={tmp_path / 'sweep'}"),
        *("model.hidden_size=64", "model.num_attention_heads=4", "track.every=5"),
    ]


def plan_of(*overrides):
    """The plan of a command, all checks passed."""
    search = compose("sweep", overrides).search
    plan, base = settle(search, Options(tuple(overrides)))
    to_try = points_to_try(search, base.model, plan)
    checks.check_sweep(search, plan, base.track, to_try.space, to_try.points)
    return plan, to_try


def error_line(*overrides):
    with pytest.raises(ConfigError) as caught:
        plan_of(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


STEPS = "train.steps=40"
LR = "search.space.optimizer.lr=loguniform(1e-4,1e-2)"


def test_a_trial_is_a_command_of_pretrain(small):
    plan, to_try = plan_of(*small, LR, STEPS, "launch.processes=2", "parallel.zero_stage=2", "search.trials=3")
    assert (plan.metric, plan.every, plan.ranks, len(to_try.points)) == ("eval/validation/loss", 4, 2, 3)
    run_dir = plan.folder / "trials" / "00002"
    arguments = plan.arguments(to_try.points[2], run_dir=run_dir, fork_from="/a@3")
    config = compose("pretrain", arguments)
    assert config.optimizer.lr == float(to_try.points[2]["optimizer.lr"])
    assert (config.launch.processes, config.parallel.zero_stage, config.checkpoint.fork_from) == (2, 2, "/a@3")
    assert (config.evaluate.every, config.checkpoint.every) == (4, 4)
    assert (config.run.dir, config.run.name) == (str(run_dir), f"{plan.name}-00002")
    assert config.track.wandb.group == plan.name


def test_a_group_may_be_typed_and_varied(small):
    plan, to_try = plan_of(*small, STEPS, "launch=local", "schedule=wsd", "search.space.schedule=choice(cosine,linear)")
    names = {plan.compose(values).schedule.name for values in to_try.points}
    assert names == {"cosine", "linear"}
    arguments = plan.arguments(to_try.points[0], run_dir=plan.folder / "trials" / "00000")
    assert compose("pretrain", arguments).launch.name == "local"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing is varied"),
        ([LR, "run.name=x"], "run.name: a sweep sets that for its trials; use search.name"),
        ([LR, "evaluate.every=5"], "use search.every"),
        ([LR, "search.metric=eval/other/loss"], "choose one of train/loss, eval/validation/loss"),
        ([LR, "search.metric=train/loss", "search.every=7"], "multiple of track.every"),
        ([LR, "search.grace=6"], "trials report every 4 steps"),
        ([LR, "search=grid"], "a grid needs values"),
        ([LR, "search=pbt", "search.searcher=tpe"], "pbt draws its own values"),
        (["search.space.model.z_loss=uniform(0,0.1)", "search=pbt"], "pbt changes values in the middle of a run"),
        ([LR, "search=pbt", "search.trials=1"], "pbt needs at least 2"),
        (["search.space.optimizer.lr=choice(1e-3,abc)"], "optimizer.lr=abc: must be a number"),
        (["search.space.optimizer.lr=uniform(1,20)"], "optimizer.lr=20.0: must be at least 0 and at most 10.0"),
        (["search.space.parallel.tensor=choice(1,4)"], "parallel.tensor=4"),
        ([LR, "search.ranks_per_trial=3"], "3 ranks"),
        (["search=ladder", "search.ladder.widths=[16,32]"], "at least 3 widths"),
        (["search=ladder", "search.ladder.widths=[16,32,40]"], "width 40 is no multiple of the heads' width, 16"),
        (
            ["search=ladder", "search.ladder.widths=[16,32,48]", "search.ladder.holdout=48"],
            "above the largest width, 48",
        ),
        (["search=ladder", STEPS], "train.steps=40: a ladder's runs are as long as search.ladder"),
        (["search=ladder", "search.scheduler=asha"], "a ladder's runs go to their end"),
        (["search=ladder", LR, "search.ladder.widths=[16,32,48]"], "a ladder varies size and tokens alone"),
    ],
)
def test_refusals(small, overrides, message):
    ladder = "search=ladder" in overrides
    assert message in error_line(*small, *overrides, *([] if ladder else [STEPS]))


def test_what_is_not_prepared_is_refused_before_ray_is_started(tmp_path):
    with pytest.raises(Exception, match="banyan prepare"):
        plan_of(LR, f"data.path={tmp_path / 'nothing'}", f"search.dir={tmp_path}")


def test_ray_is_not_imported_before_it_is_told_how_to_run():
    program = "import sys, launch.sweep.recipe; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_another_sweep_has_another_name_and_no_place_in_this_one(small):
    plan, _ = plan_of(*small, LR)
    plan.write()
    more, _ = plan_of(*small, LR, "search.trials=32", "search.max_concurrent=1", "launch.processes=2")
    assert more.name == plan.name
    more.write()
    other, _ = plan_of(*small, LR, "train.batch_size=8")
    assert other.name != plan.name
    with pytest.raises(ConfigError, match=r"train.batch_size: 4 → 8 can't change in a sweep"):
        other.write()
    assert SweepPlan.read(plan.folder) == more


def test_overrides_are_told_apart():
    typed = [
        "search=asha",
        "search.trials=3",
        "model=tiny",
        "~data.train.a",
        "+experiment=x",
        "search.space.model=choice(a)",
    ]
    assert split_overrides(typed) == ("model=tiny", "~data.train.a", "+experiment=x")


def test_a_ladder_widens_by_heads_and_ends_with_the_size_held_out(small):
    plan, to_try = plan_of(
        *(*small, "search=ladder", "search.ladder.widths=[48,16,32]", "search.ladder.tokens_per_parameter=[2,1]"),
        "search.ladder.holdout=96",
    )
    assert [rung.is_holdout for rung in to_try.rungs] == [False] * 6 + [True]
    config = plan.compose(to_try.points[-1])
    assert config.model.mup
    assert (config.model.hidden_size, config.model.num_attention_heads, config.model.num_key_value_heads) == (96, 6, 3)
    assert config.train.tokens == 2 * count_parameters(dataclasses.replace(config.model, vocab_size=300))


def test_a_ladder_of_constant_aspect_deepens():
    model = compose("pretrain", []).model
    model.vocab_size = 100
    ladder = Ladder(widths=[64, 128, 256], tokens_per_parameter=[1.0, 2.0], aspect=64.0)
    layers = [rung.values["model.num_hidden_layers"] for rung in rungs_of(ladder, model)]
    assert layers == ["1", "1", "2", "2", "4", "4"]


def test_a_trial_keeps_one_checkpoint_unless_others_go_on_from_older_ones(small):
    plan, _ = plan_of(*small, LR, STEPS)
    run_dir = plan.folder / "trials" / "00000"
    for changed, keep in (
        (plan, ["checkpoint.keep=1"]),
        (dataclasses.replace(plan, reports_saved=True), []),
        (dataclasses.replace(plan, overrides=(*plan.overrides, "checkpoint.keep=5")), ["checkpoint.keep=5"]),
    ):
        assert [each for each in changed.arguments({}, run_dir=run_dir) if each.startswith("checkpoint.keep")] == keep
