"""The Parzen searcher: better than chance, told of early stops, and the same again after a kill."""

import math
import random

import pytest

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.sweep.searcher import ParzenSearcher
from launch.sweep.space import Distribution, to_texts
from launch.sweep.trainable import ENDED, LOSS, STEP

SPACE = {"optimizer.lr": Distribution("loguniform", 1e-5, 1e-1), "schedule": Distribution("choice", values=("a", "b"))}


def searcher_of(trials, known=None):
    return ParzenSearcher(SPACE, trials=trials, seed=0, known=known or {}, sweep="/s")


def loss_of(values):
    return abs(math.log10(values["optimizer.lr"]) + 3) + (values["schedule"] == "b")


def run(searcher, count, first=0):
    """Runs trials one after the other; their values and losses."""
    done = []
    for number in range(first, count):
        case = searcher.suggest(f"t{number}")["trial"]
        assert (case["number"], case["sweep"]) == (number, "/s")
        loss = loss_of(case["values"])
        searcher.on_trial_result(f"t{number}", {LOSS: loss, STEP: 10})
        searcher.on_trial_complete(f"t{number}", {ENDED: "finished"})
        done.append((case["values"], loss))
    return done


def test_it_comes_nearer_than_chance_does():
    searcher = searcher_of(40)
    losses = [loss for _, loss in run(searcher, 40)]
    draw = random.Random(0)
    by_chance = [
        loss_of({"optimizer.lr": 10 ** draw.uniform(-5, -1), "schedule": draw.choice("ab")}) for _ in range(40)
    ]
    assert sum(losses[20:]) < 0.6 * sum(by_chance[20:])
    assert searcher.suggest("last") == "FINISHED"


def test_a_start_after_a_kill_suggests_known_values_under_their_numbers():
    whole = [values for values, _ in run(searcher_of(12), 12)]
    begun = [0, 1, 2, 3, 4, 6]  # 5 had been suggested, and was killed before it began
    known = {number: to_texts(whole[number]) for number in begun}
    again = [values for values, _ in run(searcher_of(12, known), 12)]
    assert [again[number] for number in begun] == [whole[number] for number in begun]


def test_stopped_diverged_and_failed_trials_are_told_apart():
    searcher = searcher_of(4)
    for name in "abcd":
        searcher.suggest(name)
        searcher.on_trial_result(name, {LOSS: 5.0, STEP: 2})
    searcher.on_trial_complete("a", {LOSS: 5.0, STEP: 2})
    searcher.on_trial_complete("b", {ENDED: "diverged"})
    searcher.on_trial_complete("c", {ENDED: "failed"})
    searcher.on_trial_complete("d", {ENDED: "finished"})
    states = [trial.state.name for trial in searcher._study.trials]
    assert states == ["PRUNED", "PRUNED", "FAIL", "COMPLETE"]
    assert math.isnan(searcher._study.trials[1].intermediate_values[3])
