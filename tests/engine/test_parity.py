"""Losses and gradient norms don't depend on world size or ZeRO stage, and are plain PyTorch's."""

import itertools

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    return train_plainly(small_config(corpus, tmp_path_factory.mktemp("reference")))


ALWAYS = [(1, 0), (2, 1), (2, 2), (2, 3), (4, 3)]
SHAPES = [
    pytest.param(*shape, marks=() if shape in ALWAYS else pytest.mark.full)
    for shape in itertools.product((1, 2, 4), range(4))
]


@pytest.mark.parametrize(("world_size", "stage"), SHAPES)
def test_losses_and_norms_equal_plain_pytorch(corpus, tmp_path, reference, world_size, stage):
    config = small_config(corpus, tmp_path / "run", parallel__zero_stage=stage)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_same_course(tmp_path / "run", reference, TOLERANCE)


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.full), True], ids=["untied", "tied"])
def test_a_loss_in_chunks_is_the_same_at_every_stage(corpus, tmp_path, tied):
    """Below stage 3 gradients are taken on the way forward; there a tied matrix gets two."""
    model = {"model__tie_word_embeddings": tied, "model__z_loss": 1e-3}
    reference = train_plainly(small_config(corpus, tmp_path / "plain", train__steps=4, **model))
    for stage in range(4):
        chunks = {"parallel__zero_stage": stage, "model__loss_chunk": 20, "train__steps": 4}
        config = small_config(corpus, tmp_path / str(stage), **chunks, **model)
        assert run_ranks(pretrain, config, 2) == [0, 0]
        assert_same_course(tmp_path / str(stage), reference, TOLERANCE)


def test_mup_is_the_same_at_stage_3(corpus, tmp_path):
    """Its groups of parameters have rates of their own."""
    mup = {"model__mup": True, "model__mup_base_width": 16}
    alone = small_config(corpus, tmp_path / "alone", **mup)
    sharded = small_config(corpus, tmp_path / "sharded", parallel__zero_stage=3, **mup)
    assert run_ranks(pretrain, alone, 1) == [0]
    assert run_ranks(pretrain, sharded, 2) == [0, 0]
    expected = [(row["train/loss"], row["train/grad_norm"]) for row in read_metrics(tmp_path / "alone")]
    assert_same_course(tmp_path / "sharded", expected, 1e-4)
