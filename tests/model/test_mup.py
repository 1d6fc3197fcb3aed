"""muP: a step changes what the model computes by as much at every width (the coordinate check of Yang et al., 2022)."""

import pytest
import torch

from trainer.config import Model, Optimizer
from trainer.engine.optimizers.build import build_optimizer, learning_rates, set_learning_rates
from trainer.errors import ConfigError
from trainer.model.decoder import Transformer
from trainer.model.initialize import initial_weight, initialize
from trainer.model.mup import rate_scale
from trainer.rules.pretrain import check_model

BASE, WIDEST, STEPS = 64, 1024, 4


def sized(width, *, mup, experts=0):
    return Model(
        vocab_size=128,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        num_experts=experts,
        moe_intermediate_size=width,
        mup=mup,
        mup_base_width=BASE,
    )


def changes(width, *, mup, experts=0):
    """Root mean squares of what STEPS steps change: {hidden states, logits}, at one learning rate for all widths."""
    config = sized(width, mup=mup, experts=experts)
    model = Transformer(config)
    initialize(model, 0, config)
    optimizer = build_optimizer(Optimizer(lr=3e-3, weight_decay=0.0), config, model.named_parameters())
    tokens = torch.randint(128, (4, 33), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    @torch.no_grad()
    def look():
        hidden, _ = model.eval().model(inputs, None, None)
        return {"hidden": hidden, "logits": model.lm_head(hidden)}

    before = look()
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model.train()(inputs, targets).sum() / targets.numel()).backward()
        optimizer.step()
    return {name: (value - before[name]).square().mean().sqrt().item() for name, value in look().items()}


@pytest.mark.parametrize("experts", [0, 2])
def test_a_step_changes_as_much_at_every_width(experts):
    narrow = changes(BASE, mup=True, experts=experts)
    wide = changes(WIDEST // 2 if experts else WIDEST, mup=True, experts=experts)
    assert {name: wide[name] / narrow[name] for name in wide} == pytest.approx({"hidden": 1, "logits": 1}, rel=0.5)


def test_without_it_changes_grow_with_width():
    narrow, wide = changes(BASE, mup=False), changes(WIDEST, mup=False)
    assert wide["logits"] > 3 * narrow["logits"]


def test_at_the_base_width_nothing_changes():
    mup, plain = sized(BASE, mup=True), sized(BASE, mup=False)
    for name, parameter in Transformer(plain).named_parameters():
        shape = tuple(parameter.shape)
        assert torch.equal(initial_weight(0, name, shape, mup), initial_weight(0, name, shape, plain))
        assert rate_scale(name, mup) == 1.0


def test_rates_and_decay_of_a_wide_model():
    config = sized(4 * BASE, mup=True)
    optimizer = build_optimizer(Optimizer(lr=0.1, weight_decay=0.2), config, Transformer(config).named_parameters())
    set_learning_rates(optimizer, lambda peak: peak / 2)
    found = {(group["lr"], round(group["lr"] * group["weight_decay"], 9)) for group in optimizer.param_groups}
    assert found == {(0.05, 0.01), (0.05, 0.0), (0.0125, 0.01)}  # embedding; norms; matrices and head
    assert learning_rates(optimizer) == {"train/lr": 0.05}


def test_a_tied_head_is_refused():
    config = sized(BASE, mup=True)
    config.tie_word_embeddings = True
    with pytest.raises(ConfigError, match=r"model\.mup=true with model\.tie_word_embeddings=true"):
        check_model(config)
