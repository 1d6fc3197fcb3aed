"""Every optimiser at every ZeRO stage is its plain self: steps, clipping, resumes; and none goes unclipped."""

import pytest
import torch

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from trainer.config.optimizers import OPTIMIZERS
from trainer.engine.optimizers.build import BUILDERS
from trainer.engine.optimizers.lion import Lion

SETTINGS = {
    "lion": {"optimizer__lr": 1e-3, "optimizer__beta2": 0.99},
    "sgd": {"optimizer__lr": 0.3, "optimizer__momentum": 0.8},
}


def configure(corpus, run_dir, name, stage, **changes):
    settings = SETTINGS[name] | {"train__gradient_clipping": 0.3} | changes  # which clips every step here
    return small_config(corpus, run_dir, optimizer__name=name, parallel__zero_stage=stage, **settings)


@pytest.fixture(scope="module", params=list(SETTINGS))
def plain(request, corpus, tmp_path_factory):
    """The optimiser's name, and the plain run's losses and norms."""
    return request.param, train_plainly(configure(corpus, tmp_path_factory.mktemp("plain"), request.param, 0))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_losses_and_norms_are_the_plain_optimizer_s(corpus, tmp_path, plain, stage):
    name, expected = plain
    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", name, stage), 2) == [0, 0]
    assert_same_course(tmp_path / "run", expected, 1e-4)


@pytest.mark.parametrize("name", ["lion", pytest.param("sgd", marks=pytest.mark.full)])
def test_a_resume_in_another_shape_goes_on_with_the_moments(corpus, tmp_path, name):
    whole = configure(corpus, tmp_path / "whole", name, 0)
    assert run_ranks(pretrain, whole, 1) == [0]
    for stage, ranks, stop_at in ((3, 2, 4), (0, 1, 7), (1, 2, None)):
        config = configure(corpus, tmp_path / "parts", name, stage, train__stop_at=stop_at)
        assert set(run_ranks(pretrain, config, ranks)) == {85 if stop_at else 0}
    expected = [(row["train/loss"], row["train/grad_norm"]) for row in read_metrics(tmp_path / "whole")]
    assert_same_course(tmp_path / "parts", expected, 1e-5)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_step_that_isn_t_finite_is_not_taken_at_stage_0(corpus, tmp_path, name):
    config = configure(corpus, tmp_path / "run", name, 0, optimizer__lr=9.0, model__initializer_range=1e30)
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [3]
    assert "not finite" in errors[0]


def test_lion_leaves_all_as_it_is_where_found_inf_says_so():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Lion([{"params": [weight]}])
    weight.grad = torch.tensor([4.0, -4.0])
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    optimizer.step()
    before, momentum = weight.detach().clone(), optimizer.state[weight]["exp_avg"].clone()
    assert torch.allclose(momentum, torch.tensor([0.01, -0.01]))  # the gradient, divided by its scale
    weight.grad, optimizer.found_inf = torch.tensor([float("nan"), 1.0]), torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(weight, before)
    assert torch.equal(optimizer.state[weight]["exp_avg"], momentum)


def test_every_optimizer_has_a_builder_and_a_row():
    assert BUILDERS.keys() == OPTIMIZERS.keys()
