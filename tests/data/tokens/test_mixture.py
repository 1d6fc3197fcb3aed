"""Mixtures that move: stages, caps on epochs and temperature, accounted for to the row."""

from collections import Counter

import pytest

from trainer.config import Data, MixtureStage, TrainingSet
from trainer.data.tokens.mixture import Mixture, WeightsFrom, mixture_in
from trainer.data.tokens.order import Order, Rows, consumed
from trainer.errors import ConfigError
from trainer.rules.pretrain import check_mixture

WEB = Rows("web", "e" * 64, (400, 300, 300))
CODE = Rows("code", "c" * 64, (90, 60))
MATH = Rows("math", "a" * 64, (70,))
SETS = [CODE, MATH, WEB]
MOVING = Mixture(
    (
        WeightsFrom(0, {"web": 8, "code": 2}),
        WeightsFrom(500, {"web": 4, "code": 4, "math": 2}),
        WeightsFrom(900, {"web": 1, "math": 3}),
    ),
    {"code": 225, "math": 140},
)


def taken_rows(segments, stop):
    """How often each row of each set is taken before position `stop`."""
    order = Order(SETS, segments, seed=5, window=2)
    return Counter((place.dataset, place.shard, place.row) for place in order.places(0, stop))


def test_a_set_is_taken_to_its_cap_to_the_row_and_then_leaves():
    segments, end = MOVING.lay_out([], first=0, rows=SETS)
    assert end is None
    taken = taken_rows(segments, 2000)
    math = [count for (name, *_), count in taken.items() if name == "math"]
    assert math == [2] * 70  # all rows twice, and none a third time
    code = Counter(count for (name, *_), count in taken.items() if name == "code")
    assert sum(count * rows for count, rows in code.items()) <= 225
    web = Counter(count for (name, *_), count in taken.items() if name == "web")
    assert max(web) - min(web) <= 1
    assert sum(taken.values()) == 2000
    assert consumed(segments, 2000)["a" * 64] == 140


def test_what_stands_before_a_cap_is_reached_is_the_mixture_without_it():
    free, _ = Mixture(MOVING.stages).lay_out([], first=0, rows=SETS)
    capped, _ = MOVING.lay_out([], first=0, rows=SETS)
    first = next(segment.first for segment in capped if segment not in free)
    orders = [Order(SETS, segments, seed=5, window=2).places(0, first + 40) for segments in (free, capped)]
    assert orders[0][:first] == orders[1][:first]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("stop", [0, 1, 499, 500, 501, 777, 900, 1200, 1999])
def test_laid_out_anew_from_any_position_it_is_the_same(stop):
    whole, _ = MOVING.lay_out([], first=0, rows=SETS)
    begun = [segment for segment in whole if segment.first < stop]
    assert MOVING.lay_out(begun, first=stop, rows=SETS)[0] == whole
    assert MOVING.lay_out(whole, first=stop, rows=SETS)[0] == whole


def test_changed_at_a_resume_it_repeats_and_loses_no_row():
    segments, _ = MOVING.lay_out([], first=0, rows=SETS)
    other = Mixture((WeightsFrom(0, {"web": 1, "code": 1, "math": 1}),), {"code": 150, "math": 70})
    changed, end = other.lay_out(segments, first=560, rows=SETS)
    assert [s for s in changed if s.first < 560] == [s for s in segments if s.first < 560]
    assert end is None
    taken = taken_rows(changed, 3000)
    counts = {name: [n for (of, *_), n in taken.items() if of == name] for name in ("web", "code", "math")}
    assert counts["math"] == [1] * 70
    assert counts["code"] == [1] * 150
    assert max(counts["web"]) - min(counts["web"]) <= 1
    assert sum(map(sum, counts.values())) == 3000


def test_a_mixture_whose_sets_all_have_caps_ends_and_says_so():
    mixture = Mixture((WeightsFrom(0, {"code": 1, "math": 1}),), {"code": 150, "math": 70})
    segments, end = mixture.lay_out([], first=0, rows=SETS)
    assert end == 220
    assert set(taken_rows(segments, 220).values()) == {1}
    mixture.check_lasts(segments, SETS, needed=220, sequence_length=10)
    with pytest.raises(ConfigError, match="holds 2,200 tokens, and the run takes 2,210"):
        mixture.check_lasts(segments, SETS, needed=221, sequence_length=10)


def sets(**more):
    return Data(train={name: TrainingSet(path=name) for name in ("code", "math", "web")}, sequence_length=10, **more)


def test_temperature_and_stages_of_a_configuration():
    stages = {"anneal": MixtureStage(from_tokens=4995, weights={"math": 1.0, "web": 1.0})}
    mixture = mixture_in(sets(temperature=2.0, stages=stages), SETS)
    assert mixture.stages[0].weights == pytest.approx({"code": 150**0.5, "math": 70**0.5, "web": 1000**0.5})
    assert mixture.stages[1].first == 500
    assert mixture.stages[1].weights == pytest.approx({"math": 70**0.5, "web": 1000**0.5})
    capped = sets()
    capped.train["math"].epochs = 1.5
    assert mixture_in(capped, SETS).most_rows == {"math": 105}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": {"a": MixtureStage(0, {"web": 1})}}, "from_tokens is not set"),
        (
            {"stages": {"a": MixtureStage(5, {"wob": 1})}},
            r"weights.wob: no such set in data.train, but code",
        ),
        ({"stages": {"a": MixtureStage(5, {"web": 0})}}, "above 0"),
        ({"stages": {"a": MixtureStage(5, {"web": -1, "code": 1})}}, "must be 0 or above"),
        ({"stages": {n: MixtureStage(5, {"web": 1}) for n in "ab"}}, "data.stages.a begins there"),
    ],
)
def test_stages_that_are_none_are_refused(change, said):
    with pytest.raises(ConfigError, match=said) as refused:
        check_mixture(sets(**change))
    assert "\n" not in str(refused.value)


def test_a_set_may_rest_until_a_stage():
    data = sets(stages={"a": MixtureStage(50, {"math": 1})})
    data.train["math"].weight = 0.0
    check_mixture(data)
    data.stages.clear()
    with pytest.raises(ConfigError, match=r"data.train.math.weight=0.0: must be above 0"):
        check_mixture(data)
