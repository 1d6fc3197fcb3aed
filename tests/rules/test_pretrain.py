"""Configurations that can't be honoured are refused in one line that names the key and the mend."""

import math

import pytest

from trainer.config import Pretrain, TrainingSet, ValidationSet
from trainer.config.batches import micro_batch_of
from trainer.errors import ConfigError
from trainer.rules.layouts import settle_precision
from trainer.rules.pretrain import check_pretrain


def config(**changes):
    made = Pretrain()
    made.data.path, made.train.steps = "data", 10
    for key, value in changes.items():
        *sections, name = key.split("__")
        holder = made
        for section in sections:
            holder = getattr(holder, section)
        setattr(holder, name, value)
    return made


def error_line(world_size=1, **changes):
    with pytest.raises(ConfigError) as caught:
        check_pretrain(config(**changes), world_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_default_configuration_is_accepted():
    check_pretrain(config(), 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train__batch_size", 0),
        ("train__steps", -5),
        ("optimizer__lr", -1.0),
        ("optimizer__lr", math.nan),
        ("optimizer__lr", math.inf),
        ("optimizer__lr", 1000.0),
        ("model__dropout", 1.5),
        ("optimizer__beta1", 1.0),
        ("parallel__zero_stage", 4),
        ("data__sequence_length", 0),
        ("checkpoint__keep", 0),
        ("seed", -1),
        ("train__precision", "fp4"),
        ("schedule__name", "cosin"),
    ],
)
def test_absurd_value_is_refused_with_its_key(key, value):
    assert error_line(**{key: value}).startswith(f"{key.replace('__', '.')}={value}: ")


def test_weight_of_a_mixture_is_checked_inside_the_mapping():
    sets = {"a": TrainingSet("x", -1.0)}
    assert error_line(data__path=None, data__train=sets).startswith("data.train.a.weight=-1.0: ")


def test_batch_that_doesn_t_divide_lists_sizes_that_would():
    message = error_line(world_size=3, train__batch_size=16, train__micro_batch_size=2)
    assert "train.batch_size=12 or 18" in message
    message = error_line(world_size=4, train__batch_size=8, train__micro_batch_size=4)
    assert "train.micro_batch_size=1 or 2" in message


def test_micro_batch_follows_from_the_ranks_unless_it_is_set():
    train = config(train__batch_size=16).train
    assert [micro_batch_of(train, ranks) for ranks in (1, 2, 4, 16)] == [8, 8, 4, 1]
    train.micro_batch_size = 2
    assert [micro_batch_of(train, ranks) for ranks in (1, 4)] == [2, 2]
    assert "train.batch_size=15 or 18" in error_line(world_size=3, train__batch_size=16)
    assert "train.micro_batch_size" in error_line(model__dropout=0.1)


def test_precision_that_is_left_to_the_run_is_bf16_where_devices_and_layout_have_it():
    assert config().train.precision == "auto"
    assert settle_precision(config(), 1, native_bf16=True) == "bf16"
    assert settle_precision(config(), 1, native_bf16=False) == "fp32"
    assert settle_precision(config(optimizer__name="muon", parallel__zero_stage=2), 1, native_bf16=True) == "fp32"
    assert settle_precision(config(train__precision="fp32"), 1, native_bf16=True) == "fp32"
    assert settle_precision(config(train__precision="bf16"), 1, native_bf16=False) == "bf16"
    assert "use train.precision=bf16." in error_line(train__precision="fp8")


def test_heads_that_don_t_divide_are_refused():
    assert "choose one of [1, 2, 4]" in error_line(model__num_key_value_heads=3)
    assert "use parallel.tensor=1 or 2." in error_line(parallel__tensor=4, parallel__uneven_heads=True)
    odd = {"model__num_attention_heads": 3, "model__num_key_value_heads": 3, "model__head_dim": 16}
    assert "use parallel.tensor=1 or 3, or parallel.uneven_heads=true" in error_line(parallel__tensor=2, **odd)
    check_pretrain(config(parallel__tensor=2, parallel__uneven_heads=True, **odd), 2)
    assert "model.hidden_size=255" in error_line(model__hidden_size=255)
    assert "model.head_dim=63" in error_line(model__head_dim=63)


def test_ranks_that_shares_don_t_divide_are_refused():
    assert "make launch.processes a multiple of 2" in error_line(world_size=3, parallel__tensor=2)
    assert "make launch.processes a multiple of 2" in error_line(world_size=1, parallel__tensor=2)


def test_batch_is_divided_by_data_ranks_alone():
    check_pretrain(config(parallel__tensor=2, train__batch_size=3, train__micro_batch_size=3), 2)
    assert "on 2 ranks" in error_line(world_size=4, parallel__tensor=2, train__batch_size=3, train__micro_batch_size=3)


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        (
            {"train__precision": "bf16", "parallel__zero_stage": 2},
            "use parallel.zero_stage=1 or 3, or parallel.offload=optimizer",
        ),
        (
            {"train__precision": "bf16", "parallel__zero_stage": 1, "model__num_experts": 8},
            "use parallel.zero_stage=3",
        ),
        ({"train__precision": "bf16", "parallel__zero_stage": 1, "parallel__tensor": 2}, "use parallel.zero_stage=3"),
        ({"parallel__tensor": 2, "model__intermediate_size": 77}, "model.intermediate_size=77: ranks would"),
        (
            {"parallel__tensor": 2, "parallel__uneven_heads": True, "model__num_attention_heads": 9}
            | {"model__num_key_value_heads": 3, "model__head_dim": 6},
            "model.num_key_value_heads=3: ranks would",
        ),
        (
            {"parallel__offload": "all", "parallel__offload_device": "nvme", "parallel__nvme_path": "/nvme"}
            | {"parallel__zero_stage": 3},
            "use parallel.offload_device=cpu",
        ),
    ],
)
def test_muon_where_deepspeed_s_is_another_is_refused(changes, mend):
    message = error_line(world_size=2, optimizer__name="muon", **changes)
    assert message.startswith("optimizer.name=muon with ")
    assert mend in message


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_muon_in_bf16_with_offload_is_not_refused(stage):
    layout = {"parallel__zero_stage": stage, "parallel__offload": "optimizer", "train__precision": "bf16"}
    check_pretrain(config(optimizer__name="muon", **layout), 2)


def test_muon_with_slices_of_one_size_is_not_refused():
    even = {"parallel__tensor": 2, "model__num_key_value_heads": 4, "model__num_attention_heads": 4}
    check_pretrain(config(optimizer__name="muon", **even), 2)
    experts = {"model__num_experts": 4, "model__intermediate_size": 77}
    check_pretrain(config(optimizer__name="muon", **even, **experts), 2)


def test_offload_that_can_t_be_is_refused():
    assert "use parallel.zero_stage=1, 2 or 3" in error_line(parallel__offload="optimizer")
    assert "only stage 3" in error_line(parallel__offload="all", parallel__zero_stage=2)
    nvme = {"parallel__offload_device": "nvme", "parallel__nvme_path": "/nvme"}
    assert "only stage 3" in error_line(parallel__offload="optimizer", parallel__zero_stage=2, **nvme)
    assert "no effect" in error_line(**nvme)
    missing = {"parallel__offload": "all", "parallel__zero_stage": 3, "parallel__offload_device": "nvme"}
    assert "parallel.nvme_path" in error_line(**missing)


def test_rows_that_can_t_be_spread_are_refused():
    both = error_line(world_size=4, parallel__sequence=2, parallel__tensor=2)
    assert "model.num_key_value_heads=2 can't be cut into parallel.tensor=2 times parallel.sequence=2" in both
    assert "use parallel.sequence=1, or a smaller parallel.tensor" in both
    assert "use parallel.sequence=1 or 2" in error_line(world_size=4, parallel__sequence=4)
    assert "data.sequence_length=511" in error_line(world_size=2, parallel__sequence=2, data__sequence_length=511)
    dropout = {"model__dropout": 0.1, "train__micro_batch_size": 1}
    assert "parallel.sequence=1" in error_line(world_size=2, parallel__sequence=2, **dropout)


def test_hpz_and_pipeline_that_can_t_be_are_refused():
    assert "use parallel.zero_stage=3" in error_line(world_size=4, parallel__hpz=2)
    assert "use one of [1, 2, 4]" in error_line(world_size=4, parallel__hpz=3, parallel__zero_stage=3)
    shared = {"parallel__tensor": 2, "parallel__hpz": 2, "parallel__zero_stage": 3}
    assert "parallel.tensor=1" in error_line(world_size=4, **shared)
    assert "parallel.zero_stage=3 across nodes" in error_line(parallel__pipeline=2)


def test_selective_checkpointing_of_compiled_blocks_is_refused():
    assert "use train.activation_checkpointing=full" in error_line(
        train__activation_checkpointing="selective", train__compile=True
    )


def test_experts_that_can_t_be_honoured_are_refused():
    assert "use 4 or fewer" in error_line(model__num_experts=4, model__num_experts_per_tok=5)
    assert "parallel.zero_stage=3" in error_line(parallel__expert=2)
    sizes = {"model__num_experts": 4, "model__moe_intermediate_size": 30, "parallel__zero_stage": 1}
    assert "use 24 or 32" in error_line(train__precision="bf16", **sizes)
    check_pretrain(config(**sizes), 1)
    check_pretrain(config(model__num_experts_per_tok=5), 1)


def test_length_and_data_are_given_once():
    assert "give one of them" in error_line(train__tokens=100)
    assert "give one of them" in error_line(train__steps=None)
    assert "give one of them" in error_line(data__path=None)
    assert "give one of them" in error_line(data__train={"a": TrainingSet("x")})
    assert "data.validation.a.path is empty" in error_line(data__validation={"a": ValidationSet()})


def test_change_without_a_name_is_refused():
    assert "run.name or run.dir" in error_line(run__allow_change=True)


def test_patience_without_evaluations_is_refused():
    assert "evaluate.every" in error_line(evaluate__patience=3, evaluate__every=0)
