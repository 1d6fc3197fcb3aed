"""Products in float8: near bf16's, in any layout, resumed to the bit; refused where the hardware has none."""

import functools

import pytest
import torch

from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.engine.float8 import to_float8
from trainer.errors import ConfigError
from trainer.model.decoder import Transformer
from trainer.rules.layouts import check_layout
from trainer.rules.pretrain import check_pretrain

FLOAT8 = {"train__precision": "fp8", "model__head_dim": 16}


def pretrain_emulated(config):
    """The verb, with products in fp32 of what float8 leaves of the numbers."""
    import trainer.engine.assemble
    import trainer.run.open
    import trainer.verbs.pretrain

    trainer.run.open.require_float8_blocks = lambda device: None
    trainer.engine.assemble.to_float8 = functools.partial(to_float8, emulate=True)
    return trainer.verbs.pretrain.main(config)


def pretrain_on_any_device(config):
    """The verb; a CPU multiplies float8 numbers, too, only slowly."""
    import trainer.run.open
    import trainer.verbs.pretrain

    trainer.run.open.require_float8 = lambda *arguments: None
    return trainer.verbs.pretrain.main(config)


def losses(folder):
    return [row["train/loss"] for row in read_metrics(folder)]


def test_blocks_have_float8_products_of_the_same_parameters(tmp_path):
    config = small_config(tmp_path, tmp_path).model
    config.vocab_size = 64
    torch.manual_seed(0)
    model = Transformer(config).bfloat16()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randint(64, (2, 32))
    before, exact = dict(model.named_parameters()), model(tokens, tokens)
    to_float8(model, emulate=True)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    rounded = model(tokens, tokens)
    assert not torch.equal(rounded, exact)
    assert torch.allclose(rounded, exact, rtol=0.02)


@pytest.mark.parametrize("stage", [*(pytest.param(stage, marks=pytest.mark.full) for stage in (1, 2)), 3])
def test_a_run_is_near_one_in_bf16_and_goes_on_to_the_bit(corpus, tmp_path, stage):
    layout = {"parallel__zero_stage": stage, **FLOAT8}
    whole, halted, plain = tmp_path / "whole", tmp_path / "halted", tmp_path / "plain"
    assert run_ranks(pretrain_emulated, small_config(corpus, whole, **layout), 2) == [0, 0]
    assert run_ranks(pretrain_emulated, small_config(corpus, halted, **layout, train__stop_at=4), 2) == [85, 85]
    assert run_ranks(pretrain_emulated, small_config(corpus, halted, **layout), 2) == [0, 0]
    assert_equal_states(whole, halted)
    assert run_ranks(pretrain, small_config(corpus, plain, **{**layout, "train__precision": "bf16"}), 2) == [0, 0]
    assert losses(whole) != losses(plain)
    assert losses(whole) == pytest.approx(losses(plain), rel=0.02)


HEAD = {"train__fp8_head": True, "train__precision": "bf16", "model__loss_chunk": 32, "model__vocab_size": 304}


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        (0, {}),
        pytest.param(1, {"train__compile": True}, marks=pytest.mark.full),
        pytest.param(2, {}, marks=pytest.mark.full),
        pytest.param(1, {"model__tie_word_embeddings": True}, marks=pytest.mark.full),
        pytest.param(0, {"parallel__sequence": 2, "model__num_key_value_heads": 2}, marks=pytest.mark.full),
    ],
)
def test_a_run_with_a_float8_head_is_near_one_without_and_goes_on_to_the_bit(corpus, tmp_path, stage, changes):
    layout = {"parallel__zero_stage": stage, **HEAD, **changes}
    whole, halted, plain = tmp_path / "whole", tmp_path / "halted", tmp_path / "plain"
    assert run_ranks(pretrain_on_any_device, small_config(corpus, whole, **layout), 2) == [0, 0]
    assert run_ranks(pretrain_on_any_device, small_config(corpus, halted, **layout, train__stop_at=4), 2) == [85, 85]
    assert run_ranks(pretrain_on_any_device, small_config(corpus, halted, **layout), 2) == [0, 0]
    assert_equal_states(whole, halted)
    assert run_ranks(pretrain, small_config(corpus, plain, **{**layout, "train__fp8_head": False}), 2) == [0, 0]
    assert losses(whole) != losses(plain)
    assert losses(whole) == pytest.approx(losses(plain), rel=0.01)


def test_a_head_that_float8_cannot_have_is_refused(corpus, tmp_path):
    codes, errors = fail_ranks(pretrain, small_config(corpus, tmp_path / "run", **HEAD))
    assert codes == [2]
    assert (
        "train.fp8_head=true: a CPU has no float8 tensor cores, as an H100 has; use train.fp8_head=false." in errors[0]
    )
    refusals = {
        "model.vocab_size=300 with train.fp8_head=true: .* use 304": {"model__vocab_size": 300},
        "parallel.zero_stage=3: DeepSpeed brings the head": {"parallel__zero_stage": 3},
        "train.precision=fp32: .* use train.precision=bf16": {"train__precision": "fp32"},
        "parallel.tensor=2: a rank has a slice": {"parallel__tensor": 2, "model__num_key_value_heads": 2},
        "objective=dpo": {"objective__name": "dpo"},
    }
    for words, changes in refusals.items():
        with pytest.raises(ConfigError, match=words):
            check_layout(small_config(corpus, tmp_path, **{**HEAD, **changes}), 2)


def test_what_has_no_float8_products_is_refused(corpus, tmp_path):
    codes, errors = fail_ranks(pretrain, small_config(corpus, tmp_path / "run", **FLOAT8, parallel__zero_stage=1))
    assert codes == [2]
    assert "train.precision=fp8: a CPU has no float8 tensor cores, as an H100 has; use" in errors[0]
    refusals = {
        "model.hidden_size=40 with": {"model__hidden_size": 40},
        "model.num_experts=2": {"model__num_experts": 2, "model__num_experts_per_tok": 1},
        "parallel.zero_stage=0: what float8 rounds": {"parallel__zero_stage": 0},
    }
    for words, changes in refusals.items():
        config = small_config(corpus, tmp_path, **{"parallel__zero_stage": 1, **FLOAT8, **changes})
        with pytest.raises(ConfigError, match=words):
            check_pretrain(config, 1)
