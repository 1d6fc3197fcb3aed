"""Tensor parallelism, with every ZeRO stage, gives the losses and norms of one process."""

import json
import math
import os
from pathlib import Path

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.model.build import parameter_shapes
from trainer.model.partition import cut_dimension

TOLERANCE = 1e-4
# Heads that four ranks can share; norms on them, whose gradients are partial on each rank; an uneven vocabulary.
MODEL = {"model__num_key_value_heads": 4, "model__qk_norm": True, "model__vocab_size": 303}


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("reference"), **MODEL))


def assert_parity(corpus, run_dir, reference, *, data, tensor, stage, **changes):
    config = small_config(corpus, run_dir, parallel__zero_stage=stage, parallel__tensor=tensor, **MODEL, **changes)
    ranks = data * tensor
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    assert_same_course(run_dir, reference, TOLERANCE)


@pytest.mark.parametrize(
    ("data", "tensor", "stage"), [(1, 2, 0), pytest.param(2, 2, 1, marks=pytest.mark.full), (1, 2, 2), (2, 2, 3)]
)
def test_losses_and_norms_equal_plain_pytorch(corpus, tmp_path, reference, data, tensor, stage):
    assert_parity(corpus, tmp_path / "run", reference, data=data, tensor=tensor, stage=stage)


UNEVEN = {**MODEL, "model__num_attention_heads": 9, "model__num_key_value_heads": 3, "model__head_dim": 6}


@pytest.mark.parametrize(
    ("data", "stage"), [(1, 3), *(pytest.param(2, stage, marks=pytest.mark.full) for stage in range(4))]
)
def test_heads_that_do_not_divide(corpus, tmp_path, data, stage):
    """Two ranks hold six and three query heads, and write a checkpoint that one rank goes on from."""
    changes = {"qkv_bias": True, "tie_word_embeddings": True}
    changes = UNEVEN | {f"model__{name}": value for name, value in changes.items()}
    reference = train_plainly(small_config(corpus, tmp_path / "reference", **changes))
    layout = {"parallel__zero_stage": stage, "parallel__tensor": 2, "parallel__uneven_heads": True}
    first = small_config(corpus, tmp_path / "run", train__stop_at=5, **layout, **changes)
    assert run_ranks(pretrain, first, 2 * data) == [85] * 2 * data
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "run", **changes), 1) == [0]
    assert_same_course(tmp_path / "run", reference, TOLERANCE)


EXPERTS = {"model__num_experts": 4, "model__moe_intermediate_size": 40, "model__router_aux_loss_coef": 0.1}


@pytest.fixture(scope="module")
def reference_with_experts(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("experts"), **MODEL, **EXPERTS))


@pytest.mark.parametrize(
    ("data", "tensor", "stage"),
    [
        pytest.param(data, tensor, stage, marks=() if (data, tensor, stage) == (2, 2, 3) else pytest.mark.full)
        for data, tensor in ((1, 2), (2, 2), (1, 4))
        for stage in range(4)
    ],
)
def test_experts_dealt_out(corpus, tmp_path, reference_with_experts, data, tensor, stage):
    shape = {"data": data, "tensor": tensor, "stage": stage}
    assert_parity(corpus, tmp_path / "run", reference_with_experts, **shape, **EXPERTS)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("tensor", [2, 4])
@pytest.mark.parametrize("data", [1, 2])
def test_every_shape(corpus, tmp_path, reference, data, tensor, stage):
    assert_parity(corpus, tmp_path / "run", reference, data=data, tensor=tensor, stage=stage)


@pytest.mark.parametrize(("stage", "tied"), [pytest.param(1, True, marks=pytest.mark.full), (3, False)])
def test_bf16_is_within_its_noise(corpus, tmp_path, reference, stage, tied):
    """bf16 has 8 bits: an error of 2^-8 in a loss is its noise."""
    changes = {"parallel__zero_stage": stage, "train__precision": "bf16", "model__tie_word_embeddings": tied} | MODEL
    config = small_config(corpus, tmp_path / "run", parallel__tensor=2, **changes)
    alone = small_config(corpus, tmp_path / "alone", **changes)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    assert run_ranks(pretrain, alone, 1) == [0]
    rows, expected = read_metrics(tmp_path / "run"), read_metrics(tmp_path / "alone")
    for name, noise in (("train/loss", 2**-8), ("train/grad_norm", 2**-4)):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=noise)


def test_resume_is_exact(corpus, tmp_path):
    """With dropout, which tensor-parallel peers must draw alike."""
    changes = {"parallel__zero_stage": 1, "parallel__tensor": 2, "model__dropout": 0.1} | MODEL
    unbroken = small_config(corpus, tmp_path / "unbroken", **changes)
    broken = small_config(corpus, tmp_path / "broken", **changes)
    broken.train.stop_at = 4
    assert run_ranks(pretrain, unbroken, 2) == [0, 0]
    assert run_ranks(pretrain, broken, 2) == [85, 85]
    broken.train.stop_at = None
    assert run_ranks(pretrain, broken, 2) == [0, 0]
    assert_equal_states(tmp_path / "unbroken", tmp_path / "broken")


def weigh(config):
    """Trains, then leaves the bytes of weights and of optimiser state that the rank holds in weight-RANK.json."""
    import torch

    from trainer.engine.deepspeed import fragments, zero
    from trainer.verbs import pretrain as verb

    engines = []
    initialize = zero.initialize
    zero.initialize = lambda *given: engines.append(initialize(*given)) or engines[-1]
    code = verb.main(config)
    (engine,) = engines
    weights = [getattr(p, "ds_tensor", p) for p in engine.module.parameters()]
    states = fragments.inner_optimizer(engine).state.values()
    moments = [value for state in states for value in state.values() if torch.is_tensor(value) and value.numel() > 1]
    held = {"weights": sum(w.nbytes for w in weights), "moments": sum(m.nbytes for m in moments)}
    Path(config.run.dir, f"weight-{os.environ['RANK']}.json").write_text(json.dumps(held))
    return code


@pytest.mark.parametrize(("stage", "data"), [(1, 1), pytest.param(0, 2, marks=pytest.mark.full), (3, 2)])
def test_memory_of_a_rank_falls(corpus, tmp_path, stage, data):
    config = small_config(corpus, tmp_path / "run", parallel__zero_stage=stage, parallel__tensor=2, **MODEL)
    config.train.steps = 1
    assert run_ranks(weigh, config, 2 * data) == [0] * 2 * data
    shapes = parameter_shapes(config.model)
    cut = sum(math.prod(shape) for name, shape in shapes.items() if cut_dimension(name) is not None)
    whole = sum(math.prod(shape) for name, shape in shapes.items() if cut_dimension(name) is None)
    share = 4 * (cut / 2 + whole)  # bytes of a tensor-parallel rank's fp32 weights
    for rank in range(2 * data):
        held = json.loads((tmp_path / "run" / f"weight-{rank}.json").read_text())
        assert held["weights"] == pytest.approx(share / (data if stage == 3 else 1), rel=0.02)
        assert held["moments"] == pytest.approx(2 * share / (data if stage > 0 else 1), rel=0.02)


def apart(config):
    """Trains as if each rank were the first of a node of its own."""
    os.environ["LOCAL_RANK"] = "0"
    return pretrain(config)


def test_peers_on_two_nodes_are_refused(corpus, tmp_path):
    codes, errors = fail_ranks(apart, small_config(corpus, tmp_path / "run", parallel__tensor=2, **MODEL), 2)
    assert codes == [2, 2]
    assert "ranks 0 to 1 share layers but aren't on one node" in errors[0]
    assert not (tmp_path / "run").exists()
