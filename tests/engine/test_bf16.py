"""bf16 at stage 0, where weights are fp32 and products of bf16 copies; and when a run takes bf16 by itself."""

import functools

import pytest
import torch
import yaml

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.reader import read_weights
from trainer.engine.bf16 import autocast
from trainer.model.decoder import Transformer

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
LAYOUTS = [
    (1, {}),
    (4, {}),
    (2, {"parallel__tensor": 2, "model__qk_norm": True}),
    (2, {"parallel__tensor": 2, **{f"model__{key}": value for key, value in EXPERTS.items()}}),
    (2, {"parallel__sequence": 2}),
    (2, {"optimizer__name": "muon"}),
    (1, {"train__activation_checkpointing": "full", "model__loss_chunk": 20}),
    (1, {"train__activation_checkpointing": "selective", "data__mask_documents": True}),
    (1, {"train__compile": True}),
]
ALWAYS = (1, 3)


def model_of(tmp_path, **changes):
    settings = small_config(tmp_path, tmp_path).model
    settings.vocab_size = 64
    for key, value in changes.items():
        setattr(settings, key, value)
    torch.manual_seed(0)
    model = Transformer(settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, EXPERTS], ids=str)
def test_activations_are_bf16_and_gradients_fp32(tmp_path, changes):
    model = model_of(tmp_path, **changes)
    made = {}
    for name, module in model.named_modules():
        if not name.endswith("gate") and name.count(".") < 4:  # a router is in fp32
            module.register_forward_hook(lambda module, given, result, name=name: made.update({name: result}))
    autocast(model, torch.device("cpu"))
    losses = model(*torch.randint(64, (2, 2, 32)))
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    states = {name: result[0] if isinstance(result, tuple) else result for name, result in made.items() if name}
    states.pop("model.embed_tokens")
    assert {name for name, state in states.items() if state.dtype != torch.bfloat16} == set()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("world_size", "changes"),
    [pytest.param(*one, marks=() if index in ALWAYS else pytest.mark.full) for index, one in enumerate(LAYOUTS)],
)
def test_any_layout_at_stage_0_trains_close_to_fp32(corpus, tmp_path, world_size, changes):
    few = {**changes, "train__steps": 6}
    bf16 = small_config(corpus, tmp_path / "bf16", train__precision="bf16", **few)
    fp32 = small_config(corpus, tmp_path / "fp32", **few)
    for config in (bf16, fp32):
        assert run_ranks(pretrain, config, world_size) == [0] * world_size
    rows, expected = read_metrics(tmp_path / "bf16"), read_metrics(tmp_path / "fp32")
    for key in ("train/loss", "train/grad_norm"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in expected], rel=0.01)
        assert [row[key] for row in rows] != [row[key] for row in expected]


def test_a_run_at_stage_0_goes_on_to_the_bit_and_from_unrounded_weights(corpus, tmp_path):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    layout = {"train__precision": "bf16"}
    assert run_ranks(pretrain, small_config(corpus, whole, **layout), 2) == [0, 0]
    assert run_ranks(pretrain, small_config(corpus, halted, **layout, train__stop_at=4), 2) == [85, 85]
    assert run_ranks(pretrain, small_config(corpus, halted, **layout), 2) == [0, 0]
    assert_equal_states(whole, halted)
    weights = dict(read_weights(find_checkpoint(whole, None)))
    assert any(not weight.equal(weight.bfloat16().float()) for weight in weights.values())


def pretrain_with_bf16(config, native):
    """The verb on a device that multiplies bf16 or doesn't, whichever it is."""
    import trainer.run.open
    import trainer.verbs.pretrain

    trainer.run.open.device_multiplies_bf16 = lambda device: native
    return trainer.verbs.pretrain.main(config)


NATIVE, NOT_NATIVE = (functools.partial(pretrain_with_bf16, native=native) for native in (True, False))


def precision_of(run_dir):
    return yaml.safe_load((run_dir / "config.yaml").read_text())["train"]["precision"]


@pytest.mark.parametrize(
    ("verb", "changes", "precision"),
    [
        (NATIVE, {}, "bf16"),
        (NATIVE, {"parallel__zero_stage": 1}, "bf16"),
        (NATIVE, {"parallel__zero_stage": 2, "optimizer__name": "muon"}, "fp32"),
        (NOT_NATIVE, {}, "fp32"),
    ],
    ids=["native", "native, stage 1", "native, but the layout has none", "not native"],
)
def test_auto_is_bf16_where_devices_and_layout_have_it(corpus, tmp_path, verb, changes, precision):
    config = small_config(corpus, tmp_path / "run", train__precision="auto", train__steps=2, **changes)
    assert run_ranks(verb, config, 1) == [0]
    assert precision_of(tmp_path / "run") == precision


def test_auto_stays_what_the_run_began_with(corpus, tmp_path):
    unbroken, moved = tmp_path / "unbroken", tmp_path / "moved"
    given = small_config(corpus, unbroken, train__precision="bf16")
    assert run_ranks(NOT_NATIVE, given, 1) == [0]
    auto = {"train__precision": "auto"}
    assert run_ranks(NATIVE, small_config(corpus, moved, **auto, train__stop_at=4), 1) == [85]
    assert run_ranks(NOT_NATIVE, small_config(corpus, moved, **auto), 1) == [0]
    assert precision_of(moved) == "bf16"
    assert_equal_states(unbroken, moved)
    codes, errors = fail_ranks(pretrain, small_config(corpus, moved, train__steps=12))
    assert codes == [2]
    assert "train.precision: bf16 → fp32 since the checkpoint: set train.precision=bf16" in errors[0]


def test_in_fp32_where_bf16_is_native_a_course_is_plain_pytorch_s(corpus, tmp_path):
    reference = train_plainly(small_config(corpus, tmp_path / "plain"))
    assert run_ranks(NATIVE, small_config(corpus, tmp_path / "run"), 1) == [0]
    assert_same_course(tmp_path / "run", reference, 1e-4)
