"""train.ema: the moving average is the plain one at any stage, and survives a resume in any shape."""

import pytest
import torch

from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.checkpoint.folders import folder_of
from trainer.checkpoint.fragment import EMA
from trainer.checkpoint.reader import read_weights
from trainer.config import ExportSettings
from trainer.errors import InputError
from trainer.model.initialize import initial_weight

DECAY, STEPS = 0.8, 6


def configure(corpus, run_dir, **changes):
    keep = {"train__steps": STEPS, "train__ema": DECAY, "checkpoint__every": 1, "checkpoint__keep": STEPS}
    return small_config(corpus, run_dir, **keep | changes)


def averaged(run_dir, config):
    """The average by hand, of the weights that each step left."""
    config.model.vocab_size = 300
    average = {}
    for step in range(1, STEPS + 1):
        for name, weight in read_weights(folder_of(run_dir, step)):
            before = average.get(name, initial_weight(config.seed, name, tuple(weight.shape), config.model))
            average[name] = DECAY * before + (1 - DECAY) * weight
    return average


def saved(run_dir):
    return dict(read_weights(folder_of(run_dir, STEPS), EMA))


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.full), 2, 3])
def test_the_average_is_of_every_step_s_weights(corpus, tmp_path, stage):
    config = configure(corpus, tmp_path / "run", parallel__zero_stage=stage)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    expected, found = averaged(tmp_path / "run", config), saved(tmp_path / "run")
    assert found.keys() == expected.keys()
    for name, average in expected.items():
        assert torch.allclose(found[name], average, atol=1e-6), name


def test_a_resume_in_another_shape_goes_on_with_it(corpus, tmp_path):
    assert run_ranks(pretrain, configure(corpus, tmp_path / "whole"), 1) == [0]
    for stage, ranks, stop_at in ((3, 2, 2), (1, 1, 4), (0, 2, None)):
        config = configure(corpus, tmp_path / "parts", parallel__zero_stage=stage, train__stop_at=stop_at)
        assert set(run_ranks(pretrain, config, ranks)) == {85 if stop_at else 0}
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_export_and_evaluate_take_it_and_say_where_there_is_none(corpus, tmp_path, capsys):
    from tests.hugging_face import load_model
    from trainer.config import Checkpoint, Export, Run
    from trainer.verbs.export import main as export

    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", checkpoint__keep=1), 1) == [0]
    settings = ExportSettings(output=str(tmp_path / "out"))
    asked = Export(run=Run(dir=str(tmp_path / "run")), checkpoint=Checkpoint(ema=True), export=settings)
    assert export(asked) == 0
    weights = dict(load_model(tmp_path / "out").named_parameters())
    assert all(torch.equal(weights[name], average) for name, average in saved(tmp_path / "run").items())

    plain = configure(corpus, tmp_path / "plain", train__ema=None, train__steps=1)
    assert run_ranks(pretrain, plain, 1) == [0]
    asked.run.dir, settings.output = str(tmp_path / "plain"), str(tmp_path / "none")
    with pytest.raises(InputError, match=r"checkpoint\.ema"):
        export(asked)
