"""search.space.KEY=…: what is understood, what is refused, and what is drawn."""

import math
import random

import pytest

from launch import groups
from launch.compose import compose
from launch.overrides import Names
from launch.sweep.space import Distribution, all_points, draw_point, read_space
from launch.verbs import VERBS
from trainer.config import Pretrain
from trainer.errors import ConfigError

NAMES = Names(VERBS["pretrain"], Pretrain, groups.folders(None))


def test_overrides_reach_the_space_to_the_letter():
    config = compose(
        "sweep",
        [
            "search.space.optimizer.lr=loguniform(1e-4,1e-2)",
            "search.space.schedule=choice(cosine,wsd)",
            "train.steps=9",
        ],
    )
    assert config.search.space == {"optimizer.lr": "loguniform(1e-4,1e-2)", "schedule": "choice(cosine,wsd)"}
    assert config.train.steps == 9


def test_space_of_a_file_may_be_nested(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text(
        "searcher: tpe\nspace:\n  optimizer: {lr: 'uniform(1, 2)'}\n  train.batch_size: choice(4, 8)\n"
    )
    search = compose("sweep", ["search=mine"], tmp_path).search
    assert search.searcher == "tpe"
    assert read_space(search.space, NAMES) == {
        "optimizer.lr": Distribution("uniform", 1.0, 2.0),
        "train.batch_size": Distribution("choice", values=("4", "8")),
    }


def test_a_sweep_has_pretrains_defaults_and_its_own():
    sweep, pretrain = compose("sweep", []), compose("pretrain", [])
    assert (sweep.train, sweep.model, sweep.evaluate) == (pretrain.train, pretrain.model, pretrain.evaluate)
    assert compose("sweep", ["search=pbt", "model=moe_tiny"]).search.scheduler == "pbt"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("optimizer.learning_rate", "uniform(0,1)", "did you mean optimizer.lr?"),
        ("run.name", "choice(a,b)", "a sweep keeps run.name to itself"),
        ("optimizer.lr", "3e-4", "give a distribution: loguniform(1e-4,1e-2)"),
        ("optimizer.lr", "normal(0,1)", "give a distribution"),
        ("optimizer.lr", "uniform(1)", "a range has two numbers"),
        ("optimizer.lr", "uniform(a,b)", "a range has two numbers"),
        ("optimizer.lr", "uniform(1,1)", "the range is empty"),
        ("optimizer.lr", "uniform(0,inf)", "must be finite"),
        ("optimizer.lr", "loguniform(0,1)", "numbers above 0"),
        ("train.steps", "uniform(1,9)", "train.steps is an integer; use int(1,9)"),
        ("train.steps", "int(1,2.5)", "whole numbers"),
        ("train.precision", "uniform(0,1)", "must be text; use choice"),
        ("train.compile", "int(0,1)", "must be true or false; use choice"),
        ("optimizer.lr", "choice()", "has no values"),
        ("optimizer.lr", "choice(1,,2)", "an empty one"),
        ("optimizer.lr", "grid(1,1)", "twice"),
        ("model", "choice(tinny,moe_tiny)", "did you mean model=tiny?"),
        ("optimizer.lr", 3, "give a distribution"),
    ],
)
def test_refusals_are_one_line(key, text, message):
    with pytest.raises(ConfigError) as caught:
        read_space({key: text}, NAMES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_draws_lie_in_their_range_and_are_the_same_every_time():
    space = read_space(
        {
            "optimizer.lr": "loguniform(1e-4, 1e-2)",
            "optimizer.beta1": "uniform(0.8,0.95)",
            "schedule.warmup_steps": "int(1,3)",
            "data.exclude": "choice([a,b],'c,d')",
        },
        NAMES,
    )
    points = [draw_point(space, seed=3, number=number) for number in range(400)]
    rates = [float(point["optimizer.lr"]) for point in points]
    assert 1e-4 <= min(rates) < 2e-4
    assert 5e-3 < max(rates) <= 1e-2
    assert 150 < sum(rate < 1e-3 for rate in rates) < 250  # half of them: uniform in the logarithm
    assert {point["schedule.warmup_steps"] for point in points} == {"1", "2", "3"}
    assert {point["data.exclude"] for point in points} == {"[a,b]", "'c,d'"}
    assert points[7] == draw_point(space, seed=3, number=7) != draw_point(space, seed=4, number=7)


def test_numbers_are_short_and_clipped():
    lr = Distribution("loguniform", 1e-4, 1e-2)
    assert lr.text(0.00123456) == "0.001235"
    assert lr.text(1.0) == "0.01"
    assert float(Distribution("uniform", 0.123456, 0.2).draw(random.Random(0))) >= 0.123456
    assert Distribution("int", 1, 8).text(3.6) == "4"
    assert math.isclose(float(lr.text(0)), 1e-4)


def test_a_grid_is_every_combination_of_values():
    space = read_space({"optimizer.lr": "grid(1e-3,2e-3)", "schedule": "choice(cosine,wsd)"}, NAMES)
    assert [tuple(point.values()) for point in all_points(space)] == [
        ("1e-3", "cosine"),
        ("1e-3", "wsd"),
        ("2e-3", "cosine"),
        ("2e-3", "wsd"),
    ]
    with pytest.raises(ConfigError, match="a grid needs values"):
        list(all_points(read_space({"optimizer.lr": "uniform(0,1)"}, NAMES)))
