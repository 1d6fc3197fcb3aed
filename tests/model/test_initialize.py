import math
from dataclasses import replace

import pytest
import torch

from trainer.config import Model
from trainer.model.decoder import Transformer
from trainer.model.initialize import initial_weight, initialize

CONFIG = Model(vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=8, qk_norm=True)
GOLDEN = [0.02695189416, -0.03114014491, 0.02012169548]


def shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in Transformer(CONFIG).named_parameters()}


def test_weights_dont_depend_on_order_or_global_seed():
    names = shapes()
    torch.manual_seed(1)
    forward = {name: initial_weight(7, name, shape, CONFIG) for name, shape in names.items()}
    torch.manual_seed(2)
    backward = {name: initial_weight(7, name, shape, CONFIG) for name, shape in reversed(names.items())}
    assert all(torch.equal(forward[name], backward[name]) for name in names)


def test_weights_differ_by_name_and_seed():
    shape, name = (128, 128), "model.layers.{}.self_attn.q_proj.weight"
    first, second = (initial_weight(7, name.format(layer), shape, CONFIG) for layer in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, initial_weight(8, name.format(0), shape, CONFIG))


def spread(name, shape, config):
    residual = math.sqrt(16) if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
    if config.initializer_range is not None:
        return config.initializer_range / residual
    if "embed_tokens" in name:
        return 1 / math.sqrt(128) if config.tie_word_embeddings else 1.0
    return 1 / math.sqrt(shape[1]) / residual


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"initializer_range": 0.02}])
def test_norms_are_ones_and_matrices_have_their_spread(changes):
    config = replace(CONFIG, **changes)
    for name, shape in shapes().items():
        weight = initial_weight(7, name, shape, config)
        assert weight.shape == shape
        assert weight.dtype == torch.float32
        if name.endswith("norm.weight"):
            assert torch.equal(weight, torch.ones(shape))
            continue
        expected = spread(name, shape, config)
        assert abs(weight.std().item() / expected - 1) < 0.03, name
        assert abs(weight.mean().item()) < expected / 20, name


def test_initialize_sets_every_parameter():
    model = Transformer(CONFIG)
    initialize(model, seed=7, model=CONFIG)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, initial_weight(7, name, tuple(parameter.shape), CONFIG))


def test_values_stay_what_they_were():
    """Runs are reproducible across versions of Banyan only while this holds."""
    weight = initial_weight(0, "model.embed_tokens.weight", (64, 16), replace(CONFIG, initializer_range=0.02))
    torch.testing.assert_close(weight[0, :3], torch.tensor(GOLDEN), rtol=1e-5, atol=0)
