"""DeepSpeed's Muon at every stage is Muon by its definition: losses, norms, weights; its momentum resumes anywhere."""

import dataclasses
import random

import pytest
import torch

from tests.checkpoint.test_reshape import STEPS, move
from tests.engine.optimizers.muon_reference import orthogonalize
from tests.engine.reference import assert_same_course, train_model
from tests.engine.test_moe import EXPERTS
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.folders import list_steps
from trainer.checkpoint.reader import CheckpointReader, read_weights
from trainer.config.optimizers import OPTIMIZERS
from trainer.engine.deepspeed.muon import import_uncompiled
from trainer.errors import ConfigError
from trainer.model.sizes import is_hidden_matrix
from trainer.run.directory import check_change

SHAPES = [(w, z) for w in (1, 2, 4) for z in range(4)]
SAMPLE = [(1, 0), (2, 1), (2, 2), (2, 3)]
# Relative error of losses and norms after ten steps, and that of a single orthogonalization, by its number format.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
ONCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def configure(corpus, run_dir, **changes):
    return small_config(corpus, run_dir, optimizer__name="muon", **changes)


def computed_in(method):
    """Where the processor has no fp16, DeepSpeed takes "gram" steps in fp32."""
    import_uncompiled()
    from deepspeed.runtime.zero.muon.original_muon import ns_compute_dtype

    return ns_compute_dtype(method)


def sampled(shapes, sample):
    """All shapes for `--full`, and those of the sample always."""
    return [pytest.param(*shape, marks=() if shape in sample else pytest.mark.full) for shape in shapes]


def assert_same_weights(run_dir, model, tolerance):
    expected = dict(model.named_parameters())
    for name, weight in read_weights(find_checkpoint(run_dir, None)):
        largest = expected[name].abs().max()
        assert (weight - expected[name]).abs().max() <= tolerance * largest, name


@pytest.fixture(scope="module")
def references(corpus, tmp_path_factory):
    """The plain model and history by gradient clipping: all of the steps are clipped, or none."""
    folder = tmp_path_factory.mktemp("plain")
    return {clip: train_model(configure(corpus, folder, train__gradient_clipping=clip)) for clip in (1.0, 0.0)}


@pytest.mark.parametrize(("world_size", "stage"), sampled(SHAPES, SAMPLE))
def test_muon_equals_its_definition_in_plain_pytorch(corpus, tmp_path, references, world_size, stage):
    config = configure(corpus, tmp_path / "run", parallel__zero_stage=stage)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    model, expected = references[1.0]
    assert all(norm > 1.2 for _, norm in expected)  # so that clipping is part of what is compared
    tolerance = TOLERANCE[computed_in("gram")]
    assert_same_course(tmp_path / "run", expected, tolerance)
    assert_same_weights(tmp_path / "run", model, 10 * tolerance)
    for row in read_metrics(tmp_path / "run"):
        assert row["train/muon_lr"] / row["train/lr"] == pytest.approx(0.02 / 3e-3)


@pytest.mark.full
@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("method", ["gram", "standard"])
@pytest.mark.parametrize(("world_size", "stage"), SHAPES)
def test_muon_with_accumulation_and_clipping(
    corpus, tmp_path, references, world_size, stage, method, micro_batch, clip
):
    config = configure(corpus, tmp_path / "run", parallel__zero_stage=stage, train__gradient_clipping=clip)
    config.optimizer.muon_newton_schulz, config.train.micro_batch_size = method, micro_batch
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    model, expected = references[clip]
    tolerance = TOLERANCE[computed_in(method)]
    assert_same_course(tmp_path / "run", expected, tolerance)
    assert_same_weights(tmp_path / "run", model, 10 * tolerance)


@pytest.mark.full
@pytest.mark.parametrize(("world_size", "stage"), [(w, z) for w in (1, 2, 4) for z in (0, 1, 3)])
def test_muon_in_bf16_stays_close_to_its_definition(corpus, tmp_path, references, world_size, stage):
    config = configure(corpus, tmp_path / "run", parallel__zero_stage=stage, train__precision="bf16")
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_same_course(tmp_path / "run", references[1.0][1], 1e-2)


@pytest.mark.full
@pytest.mark.parametrize(("world_size", "stage"), SHAPES)
def test_muon_of_matrices_that_ranks_can_t_share_evenly(corpus, tmp_path, world_size, stage):
    odd = {"hidden_size": 45, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6}
    changes = {f"model__{key}": value for key, value in {**odd, "intermediate_size": 77}.items()}
    model, expected = train_model(configure(corpus, tmp_path / "plain", **changes))
    config = configure(corpus, tmp_path / "run", parallel__zero_stage=stage, **changes)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    tolerance = TOLERANCE[computed_in("gram")]
    assert_same_course(tmp_path / "run", expected, tolerance)
    assert_same_weights(tmp_path / "run", model, 10 * tolerance)


TENSOR = [(w, t, z) for w, t in ((2, 2), (4, 2), (4, 4)) for z in range(4)]
# Heads that four ranks can share, with norms and biases of their own, and a vocabulary that none can
HEADS = {"num_key_value_heads": 4, "qk_norm": True, "qkv_bias": True, "vocab_size": 303}
FOUR_EXPERTS = EXPERTS | {"model__num_experts": 4}


@pytest.fixture(scope="module")
def references_of_heads(corpus, tmp_path_factory):
    """The plain model and history, by experts: with them or without."""
    found = {}
    for experts in (False, True):
        changes = {f"model__{key}": value for key, value in HEADS.items()} | (FOUR_EXPERTS if experts else {})
        found[experts] = train_model(configure(corpus, tmp_path_factory.mktemp("heads"), **changes))
    return found


@pytest.mark.parametrize(("world_size", "tensor", "stage"), sampled(TENSOR, [(2, 2, 0), (4, 2, 2), (2, 2, 3)]))
@pytest.mark.parametrize("experts", [False, pytest.param(True, marks=pytest.mark.full)])
def test_muon_of_matrices_that_tensor_parallelism_cut(
    corpus, tmp_path, references_of_heads, world_size, tensor, stage, experts
):
    """The norm, too: every step here is clipped by it."""
    changes = {f"model__{key}": value for key, value in HEADS.items()} | (FOUR_EXPERTS if experts else {})
    layout = {"parallel__zero_stage": stage, "parallel__tensor": tensor}
    config = configure(corpus, tmp_path / "run", **layout, **changes)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    model, expected = references_of_heads[experts]
    assert all(norm > 1.0 for _, norm in expected)
    tolerance = TOLERANCE[computed_in("gram")]
    assert_same_course(tmp_path / "run", expected, tolerance)
    assert_same_weights(tmp_path / "run", model, 10 * tolerance)


@pytest.mark.full
@pytest.mark.parametrize("stage", range(4))
def test_muon_with_and_without_tensor_parallelism_goes_on_in_the_other(corpus, tmp_path, stage):
    changes = {f"model__{key}": value for key, value in HEADS.items()}
    _, expected = train_model(configure(corpus, tmp_path / "plain", **changes))
    cut = {"parallel__zero_stage": stage, "parallel__tensor": 2} | changes
    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", train__stop_at=3, **cut), 2) == [85, 85]
    alone = configure(corpus, tmp_path / "run", train__stop_at=6, parallel__zero_stage=1, **changes)
    assert run_ranks(pretrain, alone, 1) == [85]
    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", **cut), 2) == [0, 0]
    assert_same_course(tmp_path / "run", expected, TOLERANCE[computed_in("gram")])


@pytest.mark.full
def test_muon_with_tensor_parallelism_resumes_to_the_bit(corpus, tmp_path):
    changes = {f"model__{key}": value for key, value in HEADS.items()}
    changes |= {"parallel__zero_stage": 2, "parallel__tensor": 2, "train__steps": 6}
    assert run_ranks(pretrain, configure(corpus, tmp_path / "calm", **changes), 4) == [0] * 4
    halfway = configure(corpus, tmp_path / "stopped", train__stop_at=3, **changes)
    assert run_ranks(pretrain, halfway, 4) == [85] * 4
    assert run_ranks(pretrain, configure(corpus, tmp_path / "stopped", **changes), 4) == [0] * 4
    assert_equal_states(tmp_path / "calm", tmp_path / "stopped")


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 3])
def test_muon_in_bf16_with_tensor_parallelism_stays_close(corpus, tmp_path, references_of_heads, stage):
    changes = {f"model__{key}": value for key, value in HEADS.items()}
    layout = {"parallel__zero_stage": stage, "parallel__tensor": 2, "train__precision": "bf16"}
    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", **layout, **changes), 2) == [0, 0]
    assert_same_course(tmp_path / "run", references_of_heads[False][1], 1e-2)


@pytest.mark.parametrize(("world_size", "stage"), sampled(SHAPES, [(2, 1)]))
def test_muon_of_stacked_experts_equals_its_definition(corpus, tmp_path, world_size, stage):
    model, expected = train_model(configure(corpus, tmp_path / "plain", **EXPERTS))
    config = configure(corpus, tmp_path / "run", parallel__zero_stage=stage, **EXPERTS)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    tolerance = TOLERANCE[computed_in("gram")]
    assert_same_course(tmp_path / "run", expected, tolerance)
    assert_same_weights(tmp_path / "run", model, 10 * tolerance)


RESUMED = [(w, z, p) for w in (1, 2, 4) for z in range(4) for p in ("fp32", "bf16") if p == "fp32" or z != 2]


@pytest.mark.parametrize(("world_size", "stage", "precision"), sampled(RESUMED, [(2, 1, "fp32")]))
def test_resumed_muon_matches_uninterrupted_run_to_the_bit(corpus, tmp_path, world_size, stage, precision):
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    changes = {"parallel__zero_stage": stage, "train__precision": precision, "train__steps": 6}
    assert run_ranks(pretrain, configure(corpus, calm, **changes), world_size) == [0] * world_size
    halfway = configure(corpus, stopped, train__stop_at=3, **changes)
    assert run_ranks(pretrain, halfway, world_size) == [85] * world_size
    assert run_ranks(pretrain, configure(corpus, stopped, **changes), world_size) == [0] * world_size
    assert_equal_states(calm, stopped)


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory):
    return train_model(configure(corpus, tmp_path_factory.mktemp("unbroken"), train__steps=STEPS))


def test_muon_moved_through_shapes_agrees_with_unbroken_run(corpus, tmp_path, unbroken):
    move(corpus, tmp_path / "run", [(1, 0), (2, 3), (2, 1)], optimizer__name="muon")
    assert_same_course(tmp_path / "run", unbroken[1], TOLERANCE[computed_in("gram")])
    reader = CheckpointReader(find_checkpoint(tmp_path / "run", None))
    kinds = {(name, kind) for name in reader.shapes for kind in kinds_of(name)}
    assert set(reader.kinds) == kinds


def kinds_of(name):
    return ("fp32", *OPTIMIZERS["muon"].of(is_hidden=is_hidden_matrix(name)))


PAIRS = random.Random(7).sample([(one, other) for one in SHAPES for other in SHAPES if one != other], 12)


@pytest.mark.full
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_pairs_of_shapes_train_on_with_muon(corpus, tmp_path, unbroken, before, after):
    move(corpus, tmp_path / "run", [before, after], optimizer__name="muon")
    assert_same_course(tmp_path / "run", unbroken[1], TOLERANCE[computed_in("gram")])


NON_FINITE = [*((z, "fp32") for z in range(4)), *((z, "bf16") for z in (0, 1, 3))]


@pytest.mark.parametrize(("stage", "precision"), sampled(NON_FINITE, [(0, "fp32"), (2, "fp32")]))
def test_non_finite_gradient_stops_muon_before_the_step(corpus, tmp_path, stage, precision):
    config = configure(corpus, tmp_path / "run", parallel__zero_stage=stage, train__precision=precision)
    config.model.initializer_range = 1e30
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [3]
    assert errors[0].startswith("NonFiniteError: step 1: the gradient norm is not finite")
    assert list_steps(tmp_path / "run") == []


@pytest.mark.parametrize("method", ["gram", "standard"])
@pytest.mark.parametrize("shape", [(12, 12), (8, 40), (40, 8), (3, 24, 16), (3, 16, 24)])
def test_orthogonalization_of_one_matrix_and_of_stacked_experts(shape, method):
    import_uncompiled()
    from deepspeed.runtime.zero.muon.original_muon import muon_update

    assert not hasattr(muon_update, "_torchdynamo_orig_callable")
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    momentum = torch.zeros(shape)
    update = muon_update(gradient.clone(), momentum, beta=0.9, ns_method=method)
    scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
    expected = torch.stack([scale * orthogonalize(matrix) for matrix in gradient.reshape(-1, *shape[-2:])]).view(shape)
    torch.testing.assert_close(momentum, 0.1 * gradient)
    assert (update - expected).norm() < ONCE[computed_in(method)] * expected.norm()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", True),
        ("model.layers.11.mlp.down_proj.weight", True),
        ("model.layers.0.mlp.experts.gate_up_proj", True),
        ("model.layers.0.mlp.gate.weight", False),
        ("model.layers.0.self_attn.q_proj.bias", False),
        ("model.layers.0.self_attn.q_norm.weight", False),
        ("model.embed_tokens.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_muon_is_for_the_matrices_of_the_blocks(name, expected):
    assert is_hidden_matrix(name) is expected


def test_other_optimiser_in_a_run_is_refused_even_if_changes_are_allowed(corpus, tmp_path):
    before = dataclasses.asdict(small_config(corpus, tmp_path))
    with pytest.raises(ConfigError, match=r"optimizer\.name: adamw → muon can't change in a run: .*run\.name"):
        check_change(before, dataclasses.asdict(configure(corpus, tmp_path)), allow=True)


@pytest.mark.full
@pytest.mark.parametrize(("layout", "stage"), [("sequence", 1), ("sequence", 2), ("sequence", 3), ("hpz", 3)])
def test_muon_with_rows_spread_over_ranks_or_second_copies(corpus, tmp_path, references, layout, stage):
    changes = {f"parallel__{layout}": 2, "parallel__zero_stage": stage}
    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", **changes), 4) == [0] * 4
    model, expected = references[1.0]
    tolerance = TOLERANCE[computed_in("gram")]
    assert_same_course(tmp_path / "run", expected, tolerance)
    assert_same_weights(tmp_path / "run", model, 10 * tolerance)


OFFLOADED = [
    (w, z, kind) for w in (1, 2) for z, kind in ((1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all"))
]


@pytest.mark.parametrize(("world_size", "stage", "offload"), sampled(OFFLOADED, [(2, 2, "optimizer"), (2, 3, "all")]))
def test_muon_of_offloaded_state_equals_its_definition(corpus, tmp_path, references, world_size, stage, offload):
    """Clipped, with several micro-batches a step; stopped and resumed on the way. At stage 3 in several sub-groups."""
    layout = {"parallel__zero_stage": stage, "parallel__offload": offload, "train__micro_batch_size": 1}
    layout |= {"deepspeed": {"zero_optimization": {"sub_group_size": 5000}}} if stage == 3 else {}
    halfway = configure(corpus, tmp_path / "run", train__stop_at=4, **layout)
    assert run_ranks(pretrain, halfway, world_size) == [85] * world_size
    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", **layout), world_size) == [0] * world_size
    model, expected = references[1.0]
    tolerance = TOLERANCE[computed_in("gram")]
    assert_same_course(tmp_path / "run", expected, tolerance)
    assert_same_weights(tmp_path / "run", model, 10 * tolerance)


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_muon_of_offloaded_slices_and_experts(corpus, tmp_path, references_of_heads, stage):
    changes = {f"model__{key}": value for key, value in HEADS.items()} | FOUR_EXPERTS
    layout = {"parallel__zero_stage": stage, "parallel__tensor": 2, "parallel__offload": "optimizer"}
    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", **layout, **changes), 4) == [0] * 4
    assert_same_course(tmp_path / "run", references_of_heads[True][1], TOLERANCE[computed_in("gram")])


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_muon_in_bf16_offloaded_stays_close_and_resumes_to_the_bit(corpus, tmp_path, references, stage):
    layout = {"parallel__zero_stage": stage, "parallel__offload": "optimizer", "train__precision": "bf16"}
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    assert run_ranks(pretrain, configure(corpus, calm, **layout), 2) == [0, 0]
    assert_same_course(calm, references[1.0][1], 1e-2)
    assert run_ranks(pretrain, configure(corpus, stopped, **layout, train__stop_at=3), 2) == [85, 85]
    assert run_ranks(pretrain, configure(corpus, stopped, **layout), 2) == [0, 0]
    assert_equal_states(calm, stopped)


@pytest.mark.full
def test_muon_moved_in_and_out_of_host_memory(corpus, tmp_path, unbroken):
    legs = [(2, 3, "all"), (2, 1, "optimizer"), (1, 0, "none"), (2, 2, "optimizer")]
    for number, (world_size, stage, offload) in enumerate(legs, start=1):
        layout = {"parallel__zero_stage": stage, "parallel__offload": offload, "train__steps": STEPS}
        stop_at = None if number == len(legs) else number * STEPS // len(legs)
        config = configure(corpus, tmp_path / "run", train__stop_at=stop_at, **layout)
        assert run_ranks(pretrain, config, world_size) == [0 if stop_at is None else 85] * world_size
    assert_same_course(tmp_path / "run", unbroken[1], TOLERANCE[computed_in("gram")])
