"""track.tensorboard=true: what TensorBoard itself reads back."""

import math

import pytest

from trainer.config import Pretrain
from trainer.track.sinks.sink import Start
from trainer.track.sinks.tensorboard import FOLDER, open_sink


def start(run_dir, step=0):
    config = Pretrain()
    config.track.tensorboard = True
    return Start(run_dir, config, {}, {}, start_step=step, total_steps=10)


def read(run_dir):
    """Scalars by name as (step, value), as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / FOLDER))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def log(run_dir, first, last, value):
    sink = open_sink(start(run_dir, first - 1), say=print)
    for step in range(first, last + 1):
        sink.row({"step": step, "tokens": 64 * step, "time": 1e9 + step, "train/loss": value, "train/lr": 0.5})
    sink.sample({"step": last, "time": 1e9, "name": "sample", "text": "<b>&"})
    sink.close(exit_code=0, summary={})


def test_tensorboard_reads_every_step_once_after_a_resume_from_an_earlier_checkpoint(tmp_path):
    log(tmp_path, 1, 5, 4.0)
    log(tmp_path, 4, 6, 3.0)
    scalars = read(tmp_path)
    assert scalars["train/loss"] == [(1, 4.0), (2, 4.0), (3, 4.0), (4, 3.0), (5, 3.0), (6, 3.0)]
    assert scalars.keys() == {"train/loss", "train/lr"}


def test_a_loss_that_is_not_finite_is_written_as_it_is(tmp_path):
    log(tmp_path, 1, 1, float("nan"))
    assert math.isnan(read(tmp_path)["train/loss"][0][1])


def test_without_being_asked_for_there_is_no_sink(tmp_path):
    quiet = Start(tmp_path, Pretrain(), {}, {}, start_step=0, total_steps=1)
    assert open_sink(quiet, say=print) is None


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(Exception, match=r"banyan-train\[tensorboard\]"):
        open_sink(start(tmp_path), say=print)
