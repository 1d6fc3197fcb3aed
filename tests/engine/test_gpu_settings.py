"""What DeepSpeed is told on GPUs: a configuration only, so that none is needed."""

import math
from pathlib import Path

import pytest
import torch

from tests.run_ranks import small_config
from trainer.config.training import BUCKET, LEAST_BUCKET, bucket_elements
from trainer.engine.deepspeed.zero import deepspeed_config
from trainer.model.build import parameter_shapes, partition_model
from trainer.ranks.mesh import Mesh


def told(ranks, *, device="cuda", stage=1, **changes):
    config = small_config(Path(), Path(), parallel__zero_stage=stage, model__vocab_size=300, **changes)
    mesh = Mesh(0, ranks, 0, torch.device(device), None, tensor=config.parallel.tensor)
    partition = partition_model(config.model, parameter_shapes(config.model), 0, mesh.tensor)
    return deepspeed_config(config, mesh, partition)["zero_optimization"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_reduction_goes_on_beside_backward_where_there_is_somebody_to_reduce_with(stage):
    """DeepSpeed waits for the device at the end of each backward pass where it overlaps."""
    assert told(8, stage=stage)["overlap_comm"] is True
    assert told(1, stage=stage)["overlap_comm"] is False
    assert told(8, stage=stage, device="cpu")["overlap_comm"] is False


def test_tensor_parallel_peers_have_no_gradients_to_share():
    assert told(2, parallel__tensor=2)["overlap_comm"] is False


def test_gradients_are_copied_into_a_bucket_where_that_is_reduced_before_backward_ends():
    assert told(8)["contiguous_gradients"] is True
    assert told(1)["contiguous_gradients"] is False
    assert told(1, parallel__offload="optimizer")["contiguous_gradients"] is True


def test_a_bucket_is_full_long_before_backward_ends_and_never_larger_than_deepspeed_s():
    assert [bucket_elements(millions * 10**6, cuda=True) for millions in (1, 124, 1236, 8030)] == [
        LEAST_BUCKET,
        124_000_000 // 6,
        206_000_000,
        BUCKET,
    ]
    assert bucket_elements(124_000_000, cuda=False) == BUCKET
    held = sum(map(math.prod, parameter_shapes(small_config(Path(), Path(), model__vocab_size=300).model).values()))
    assert held < LEAST_BUCKET == told(8)["reduce_bucket_size"]


def test_what_the_user_says_of_deepspeed_counts():
    assert told(8, deepspeed={"zero_optimization": {"reduce_bucket_size": 7}})["reduce_bucket_size"] == 7
