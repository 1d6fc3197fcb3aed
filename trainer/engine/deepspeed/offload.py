"""Offload: optimiser state and weights that live in host memory, or on a local NVMe drive, between uses."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from trainer.config import Parallel, Pretrain
from trainer.errors import ConfigError
from trainer.model.partition import Partition
from trainer.ranks.extensions import building
from trainer.ranks.mesh import Mesh

_claims: list[TextIO] = []  # open for as long as the process lives


def load_nvme_op(parallel: Parallel) -> None:
    """Builds (once) what reads and writes NVMe, where it is asked for. ConfigError if it can't be built or used."""
    if parallel.offload_device != "nvme":
        return
    from deepspeed.ops.op_builder import AsyncIOBuilder

    with building("async_io", "DeepSpeed's NVMe op: some minutes"):
        if not AsyncIOBuilder().is_compatible():
            raise ConfigError(
                "parallel.offload_device=nvme needs libaio's headers to build DeepSpeed's async_io, and they aren't "
                "there: install libaio-dev (libaio-devel), or use parallel.offload_device=cpu."
            )
        AsyncIOBuilder().load()
    _claim(Path(str(parallel.nvme_path)))


def _claim(folder: Path) -> None:
    """Refuses a folder that another run uses: DeepSpeed names its files by rank alone. The claim dies with us."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claim = (folder / f"rank-{os.environ['RANK']}.claim").open("w")
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"parallel.nvme_path={folder} is in use by another run: give each a folder.") from None
    except OSError as error:
        raise ConfigError(
            f"parallel.nvme_path={folder}: {error.strerror}; give a folder that can be written."
        ) from None
    _claims.append(claim)


def offload_settings(parallel: Parallel, mesh: Mesh, partition: Partition) -> dict[str, Any]:
    """The part of DeepSpeed's zero_optimization that says what leaves the device and where it goes."""
    if parallel.offload == "none":
        return {}
    nvme = parallel.offload_device == "nvme"
    place: dict[str, Any] = {"device": parallel.offload_device, "pin_memory": mesh.device.type == "cuda"}
    if nvme:
        place["nvme_path"] = parallel.nvme_path
    settings: dict[str, Any] = {"offload_optimizer": place}
    if parallel.offload == "all":
        # DeepSpeed would keep the first 10^9 elements in host memory, and refuse partitions of more than 10^8.
        largest = math.ceil(max(map(math.prod, partition.shapes.values())) / (mesh.world_size // mesh.tensor))
        settings["offload_param"] = place | ({"max_in_cpu": 0, "buffer_size": largest} if nvme else {})
        if nvme:  # a weight that stayed for its next use would keep one of the few buffers
            settings |= {"stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
    return settings


def is_offloaded(engine: Any) -> bool:
    """Whether the state that the optimiser steps, gradients included, has left the device; of stages 1 to 3."""
    zero = engine.optimizer  # stages 1 and 2, and stage 3, by different names
    return bool(getattr(zero, "cpu_offload", False) or getattr(zero, "offload_optimizer", False))


@contextlib.contextmanager
def group_in_memory(engine: Any, group: int) -> Iterator[None]:
    """Where the optimiser state of one of DeepSpeed's groups can be seen; on NVMe it is read before, written after."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3 or not optimizer._swappable_optimizer_subgroup(group):
        yield
        return
    optimizer._optimizer_states_and_gradient_swap_in(group)
    try:
        yield
    finally:
        optimizer._optimizer_states_and_gradient_swap_out(group)


@contextlib.contextmanager
def weight_in_memory(parameter: Any) -> Iterator[None]:
    """Where stage 3's partition of a weight can be set; on NVMe it is read before and written after."""
    from deepspeed.runtime.swap_tensor.partitioned_param_swapper import PartitionedParamStatus

    if parameter.ds_tensor.status != PartitionedParamStatus.NOT_AVAILABLE:
        yield
        return
    parameter.nvme_swapper.swap_in([parameter], async_op=False)
    try:
        yield
    finally:
        parameter.nvme_swapper.swap_out_and_release([parameter])


def home_of_weights(config: Pretrain, mesh: Mesh) -> str:
    """Where stage 3's partitions of weights are, by DeepSpeed's name."""
    return config.parallel.offload_device if config.parallel.offload == "all" else str(mesh.device)
