"""What a run has consumed, and how many steps its tokens leave it."""

import pytest

from trainer.config import Pretrain
from trainer.config.ramps import Ramps
from trainer.data.tokens.history import History, read_history, total_steps_in, total_steps_of
from trainer.data.tokens.order import Segment, Share
from trainer.errors import InputError
from trainer.machine.durable import write_json


def config_of(tokens, batch_size, steps=None):
    config = Pretrain()
    config.train.steps, config.train.tokens, config.train.batch_size = steps, tokens, batch_size
    config.data.sequence_length = 64
    return config


def history_of(*legs):
    """Of legs (step after which it begins, batch size)."""
    history = History([Segment(0, {"train": Share("f", 4096, 0)})], [])
    for step, batch_size in legs:
        history = history.at_steps(step=step, ramps=Ramps(batch_size))
    return history


@pytest.mark.parametrize(
    ("tokens", "legs", "steps"),
    [
        (5120, [(0, 4)], 20),
        (5120, [(0, 4), (10, 8)], 15),
        (9000, [(0, 8), (10, 4)], 26),
        (5121, [(0, 4), (10, 8)], 16),  # rounded up to a step
        (5120, [(0, 4), (10, 8), (12, 2)], 24),
        (5120, [(0, 4), (10, 8), (10, 4)], 20),  # changed back before a step was taken
        (5120, [(0, 4), (10, 8), (15, 16)], 15),  # nothing was left
        (2560, [(0, 4), (10, 8)], 10),
        (100, [(0, 4), (10, 8)], 1),
    ],
)
def test_steps_left_follow_from_tokens_left(tokens, legs, steps):
    history = history_of(*legs)
    assert total_steps_of(config_of(tokens, legs[-1][1]), history) == steps
    assert history.position_after(steps) * 64 >= min(tokens, history.position_after(legs[-1][0]) * 64)


def test_steps_asked_for_stay_whatever_the_batch_size():
    assert total_steps_of(config_of(None, 8, steps=20), history_of((0, 4), (10, 8))) == 20


def test_a_run_directory_tells_the_steps_of_the_next_start(tmp_path):
    assert total_steps_in(tmp_path, config_of(5120, 8), step=0) == 10
    write_json(tmp_path / "history.json", history_of((0, 4)).to_json())
    assert total_steps_in(tmp_path, config_of(5120, 4), step=10) == 20
    assert total_steps_in(tmp_path, config_of(5120, 8), step=10) == 15


@pytest.mark.parametrize("content", ["{", "[]", '{"segments": []}', '{"segments": [], "stretches": [{"stp": 1}]}'])
def test_a_history_that_is_none_is_named(tmp_path, content):
    (tmp_path / "history.json").write_text(content)
    with pytest.raises(InputError, match=r"history\.json: .*; the next start"):
        read_history(tmp_path)
