"""Adapters: peft's, at every stage and shape the same as in plain PyTorch, whole when saved, exact when merged."""

import importlib.util
import itertools
import json

import numpy as np
import pytest
import torch

from tests.engine.reference import assert_same_course
from tests.engine.test_finetune_parity import LENGTH, STEPS, base, chats, configure, in_rows_of_their_own
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, start_ranks
from tests.states import assert_equal_states, read_state
from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.fragment import WEIGHT
from trainer.checkpoint.reader import read_weights
from trainer.config import AUTO, Adapt, Model
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.loader import IGNORED
from trainer.data.tokens.order import Order, extend
from trainer.engine.schedule import scheduled_rate
from trainer.errors import ConfigError
from trainer.evaluate.trained_model import load_model
from trainer.model.adapters import (
    LORA_A,
    LORA_B,
    MAGNITUDE,
    add_adapters,
    base_name,
    initial_adapter,
    is_adapter,
    merged,
)
from trainer.model.build import build_empty, build_on_meta
from trainer.model.decoder import Transformer
from trainer.model.quantized import fill_quantized, is_quantized, require_quantization, round_trip
from trainer.model.region import Region
from trainer.objective.causal import Causal
from trainer.rules.pretrain import check_pretrain

peft = pytest.importorskip("peft")
__all__ = ["base", "chats"]  # fixtures

LORA = {"adapt__name": "lora", "adapt__rank": 4, "adapt__alpha": 8.0, "optimizer__lr": 1e-2}
ALWAYS = [(1, 0, 4, False), (2, 2, 1, False), (2, 3, 4, False), (2, 3, 1, True)]
SHAPES = [
    pytest.param(*shape, marks=() if shape in ALWAYS else pytest.mark.full)
    for shape in itertools.product((1, 2), (0, 1, 2, 3), (1, 4, 8), (False, True))
    if not (shape[2] == 8 and shape[0] == 2)
]


def with_everything_sharded(config):
    """The verb, at stage 3 with not even the smallest parameter kept whole: that hides partitions of shape [0]."""
    config.deepspeed = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    return pretrain(config)


def adapted(base, chats, run_dir, **changes):
    return configure(base, chats, run_dir, **LORA | changes)


def train_adapters_plainly(config, base):
    """(loss, norm) of each step in one process of plain PyTorch and peft, documents in rows of their own."""
    (dataset,) = open_training(config.data, config.seed)
    config.model.vocab_size = dataset.manifest.vocab_size
    model = Transformer(config.model)
    weights = dict(read_weights(find_checkpoint(base, None)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(kinds), use_dora=config.adapt.dora)
    peft.inject_adapter_in_model(settings, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name) and not name.endswith(MAGNITUDE):  # peft's own draw depends on torch's generator
                region = Region.of_slice(tuple(parameter.shape), None)
                parameter.copy_(initial_adapter(config.seed, name, region, None, 0).view(parameter.shape))
    trained = [parameter for name, parameter in model.named_parameters() if is_adapter(name)]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    lengths = [parameter for parameter in trained if parameter.ndim == 1]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": lengths, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    segments = extend([], first=0, rows=[dataset.rows], weights={"train": 1.0})
    order = Order([dataset.rows], segments, seed=config.seed, window=config.data.shuffle_shards)
    size, course = config.train.batch_size, []
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = scheduled_rate(config.schedule, peak=settings.lr, step=step, total_steps=STEPS)
        positions = np.arange((step - 1) * size, step * size)
        places = order.locate(positions)
        batch = Causal(LENGTH, None).to_batch(dataset.gather_rows(places.shard, places.row), positions=positions)
        inputs, targets = in_rows_of_their_own(batch)
        loss = model(inputs, targets).sum() / int((targets != IGNORED).sum())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, config.train.gradient_clipping)
        optimizer.step()
        course.append((loss.item(), norm.item()))
    return course


@pytest.fixture(scope="module")
def references(base, chats, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return {
        dora: train_adapters_plainly(adapted(base, chats, folder, adapt__dora=dora), base) for dora in (False, True)
    }


@pytest.mark.parametrize(("ranks", "stage", "micro", "dora"), SHAPES)
def test_adapters_train_as_in_plain_pytorch(base, chats, tmp_path, references, ranks, stage, micro, dora):
    changes = {"train__micro_batch_size": micro, "parallel__zero_stage": stage, "adapt__dora": dora}
    config = adapted(base, chats, tmp_path / "run", **changes)
    assert run_ranks(with_everything_sharded if stage == 3 else pretrain, config, ranks) == [0] * ranks
    assert_same_course(tmp_path / "run", references[dora], 1e-5)


def test_a_checkpoint_holds_whole_adapters_and_nothing_of_the_base(base, chats, tmp_path):
    """At stage 3 on two ranks, each holds a part of each; what others save there has the shape [0]."""
    config = adapted(base, chats, tmp_path / "run", parallel__zero_stage=3, train__micro_batch_size=4)
    assert run_ranks(with_everything_sharded, config, 2) == [0, 0]
    state = read_state(tmp_path / "run")
    names = {name for name, _ in state}
    assert names
    assert all(map(is_adapter, names))
    shapes = {name: tuple(value.shape) for (name, kind), value in state.items() if kind == WEIGHT}
    assert shapes["model.layers.0.self_attn.q_proj.lora_A.default.weight"] == (4, 48)
    assert shapes["model.layers.1.mlp.gate_proj.lora_B.default.weight"] == (96, 4)
    assert all(value.abs().sum() > 0 for (_, kind), value in state.items() if kind == WEIGHT)


def test_a_new_adapter_changes_nothing_and_half_a_run_goes_on_at_another_shape(base, chats, tmp_path):
    whole = adapted(base, chats, tmp_path / "whole")
    assert run_ranks(pretrain, whole, 1) == [0]
    full = configure(base, chats, tmp_path / "full")
    assert run_ranks(pretrain, full, 1) == [0]
    first = read_metrics(tmp_path / "whole")[0]["train/loss"]
    assert first == pytest.approx(read_metrics(tmp_path / "full")[0]["train/loss"], rel=1e-6)
    parted = adapted(base, chats, tmp_path / "parted", train__stop_at=2)
    assert run_ranks(pretrain, parted, 1) == [85]
    parted = adapted(base, chats, tmp_path / "parted", parallel__zero_stage=3, train__micro_batch_size=2)
    assert run_ranks(with_everything_sharded, parted, 2) == [0, 0]
    expected = [(row["train/loss"], row["train/grad_norm"]) for row in read_metrics(tmp_path / "whole")]
    assert_same_course(tmp_path / "parted", expected, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 3])
def test_a_run_that_is_killed_goes_on_to_the_bit(base, chats, tmp_path, stage):
    changes = {"parallel__zero_stage": stage, "checkpoint__every": 1, "train__micro_batch_size": 2}
    config = adapted(base, chats, tmp_path / "whole", **changes)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    killed = adapted(base, chats, tmp_path / "killed", **changes)
    ranks = start_ranks(pretrain, killed, 2)
    ranks.kill_once_saved(tmp_path / "killed")
    assert run_ranks(pretrain, killed, 2) == [0, 0]
    assert_equal_states(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("dora", [False, True])
def test_merged_weights_give_the_logits_of_the_adapters(base, chats, tmp_path, dora):
    config = adapted(base, chats, tmp_path / "run", adapt__dora=dora)
    assert run_ranks(pretrain, config, 1) == [0]
    config.model.vocab_size = open_training(config.data)[0].manifest.vocab_size
    checkpoint = find_checkpoint(tmp_path / "run", None)
    whole = load_model(config.model, checkpoint, torch.device("cpu"), torch.float32, adapt=config.adapt)
    apart = build_empty(config.model, torch.device("cpu"), torch.float32)
    add_adapters(apart, config.adapt)
    apart = apart.to_empty(device="cpu") if any(p.is_meta for p in apart.parameters()) else apart
    weights = dict(read_weights(find_checkpoint(base, None))) | dict(read_weights(checkpoint))
    with torch.no_grad():
        for name, parameter in apart.named_parameters():
            parameter.copy_(weights[name if is_adapter(name) else base_name(name)])
    tokens = torch.randint(290, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (whole(tokens) - apart.eval()(tokens)).abs().max() < 1e-4
        start = load_model(config.model, find_checkpoint(base, None), torch.device("cpu"), torch.float32)
        assert (whole(tokens) - start(tokens)).abs().max() > 1e-2


REFUSED = {
    "parallel.tensor": {"parallel__tensor": 2},
    "optimizer=muon": {"optimizer__name": "muon"},
    "parallel.offload": {"parallel__offload": "optimizer", "parallel__zero_stage": 2},
    "train.micro_batch_size": {"train__micro_batch_size": AUTO},
    "adapters are beside weights that exist": {"model__init_from": None},
    "adapt.quantize=4bit with parallel.zero_stage=3": {"adapt__quantize": "4bit", "parallel__zero_stage": 3},
    "adapt.quantize=4bit with adapt.dora": {"adapt__quantize": "4bit", "adapt__dora": True},
    "adapt.quantize=4bit: weights of 4 bits can't be trained": {"adapt__quantize": "4bit", "adapt__name": "full"},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_adapters_cannot_be_asked_for_is_refused_in_a_line(chats, tmp_path, problem):
    config = adapted("somewhere", chats, tmp_path / "run", **REFUSED[problem])
    with pytest.raises(ConfigError, match=problem) as refused:
        check_pretrain(config, 2)
    assert "\n" not in str(refused.value)


def test_a_target_that_matches_nothing_is_refused_with_what_there_is(base, chats, tmp_path):
    config = adapted(base, chats, tmp_path / "run", adapt__targets=["q_proj", "query"])
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [2]
    assert "adapt.targets=query" in errors[0]
    assert "q_proj, k_proj" in errors[0]


def test_weights_of_4_bits_need_a_gpu(base, chats, tmp_path):
    config = adapted(base, chats, tmp_path / "run", adapt__quantize="4bit")
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [2]
    assert "adapt.quantize=4bit: bitsandbytes needs a GPU, and the ranks are on the cpu" in errors[0]


def test_weights_of_4_bits_need_bitsandbytes():
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ConfigError, match=r"adapt.quantize=4bit needs bitsandbytes.* pip install"):
            require_quantization(Adapt(name="lora", quantize="4bit"), torch.device("cuda"))


@pytest.mark.full
def test_a_model_of_4_bits_is_the_one_that_its_adapters_are_merged_into():
    """On the CPU, where bitsandbytes can do it as well, slowly; training on it is refused."""
    pytest.importorskip("bitsandbytes")
    model = Model(vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    model.num_key_value_heads = 4
    whole, adapt = build_empty(model, torch.device("cpu"), torch.float32), Adapt(name="lora", rank=4, quantize="4bit")
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(p.shape, generator=generator) * 0.1 for name, p in whole.named_parameters()}
    packed = build_on_meta(model)
    add_adapters(packed, adapt, compute_dtype=torch.float32)
    fill_quantized(packed, lambda name, region: region.cut(weights[base_name(name)]), torch.device("cpu"))
    beside = [name for name, parameter in packed.named_parameters() if is_quantized(parameter)]
    assert len(beside) == 14
    with torch.no_grad():
        for name, parameter in list(packed.named_parameters()):
            if parameter.is_meta:
                module, _, leaf = name.rpartition(".")
                values = torch.randn(parameter.shape, generator=generator) * 0.1 if is_adapter(name) else weights[name]
                packed.get_submodule(module)._parameters[leaf] = torch.nn.Parameter(values)
        held = dict(packed.named_parameters())
        for name, parameter in whole.named_parameters():
            prefix = name.removesuffix(".weight")
            if f"{prefix}.base_layer.weight" in beside:
                parts = {end: held[f"{prefix}{end}"] for end in (LORA_A, LORA_B)}
                parameter.copy_(merged(round_trip(weights[name]), parts, adapt))
            else:
                parameter.copy_(weights[name])
        tokens = torch.randint(300, (2, 20), generator=generator)
        targets = torch.randint(300, (2, 20), generator=generator)
        assert packed.train()(tokens, targets) == pytest.approx(whole.train()(tokens, targets), rel=1e-5)


def test_a_base_that_has_changed_is_refused(base, chats, tmp_path):
    import shutil

    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    config = adapted(copy, chats, tmp_path / "run", train__stop_at=2)
    assert run_ranks(pretrain, config, 1) == [85]
    pinned = json.loads((tmp_path / "run" / "base.json").read_text())
    assert pinned["kind"] == "checkpoint"
    (copy / "checkpoints" / "step-00000003" / "COMPLETE").write_text("{}")
    config.train.stop_at = None
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [2]
    assert "base" in errors[0]


def test_names_are_taken_apart():
    name = "model.layers.0.self_attn.q_proj.base_layer.weight"
    assert base_name(name) == "model.layers.0.self_attn.q_proj.weight"
    assert is_adapter(f"x{LORA_A}")
    assert is_adapter(f"x{LORA_B}")
    assert not is_adapter(name)
    assert Adapt().name == "full"
