"""Ranks: joins the process group and says which device and which share of the data are this rank's."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed

from trainer.errors import BanyanError, ConfigError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""Longest wait in a collective; the watchdog (watchdog.py) notices a hang before, and says more."""


@dataclass(frozen=True)
class Mesh:
    """This rank's place among `world_size` = data_size · tensor · sequence ranks.

    Neighbours share layers (`tensor` of them) or sequences (`sequence`); they take the same part of the data.
    `control` is a gloo group on CPU tensors for verdicts, also where training uses nccl.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: torch.distributed.ProcessGroup
    tensor: int = 1
    sequence: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the run directory."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which part of each global batch this rank takes, of `data_size`."""
        return self.rank // (self.tensor * self.sequence)

    @property
    def data_size(self) -> int:
        """Number of data-parallel ranks."""
        return self.world_size // (self.tensor * self.sequence)

    @property
    def tensor_rank(self) -> int:
        """Which slice of the layers this rank holds."""
        return self.rank % self.tensor

    @property
    def sequence_rank(self) -> int:
        """Which part of each sequence this rank takes."""
        return self.rank % self.sequence

    def barrier(self) -> None:
        """Returns once every rank is here."""
        torch.distributed.barrier(group=self.control)

    def from_main(self, value: T) -> T:
        """Rank 0's `value`, on every rank."""
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def main_finds(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, on every rank; an expected error there is raised on every rank."""
        result: T | None = None
        error: BanyanError | None = None
        if self.is_main:
            try:
                result = work()
            except BanyanError as caught:
                error = caught
        result, error = self.from_main((result, error))
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def first(self, problem: str | None) -> str | None:
        """The problem of the lowest rank that has one, on every rank."""
        problems: list[str | None] = [None] * self.world_size
        torch.distributed.all_gather_object(problems, problem, group=self.control)
        return next((found for found in problems if found), None)

    def leave(self) -> None:
        """Ends the process group; every rank must have come here."""
        self.barrier()
        torch.distributed.destroy_process_group()


def join(*, tensor: int = 1, sequence: int = 1, hang_timeout_s: float = 0.0) -> Mesh:
    """Joins the group that RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR describe: nccl with a GPU each, else gloo.

    Its collectives wait for TIMEOUT, or twice `hang_timeout_s` if that is longer.
    """
    import deepspeed
    from deepspeed.utils import groups

    timeout = max(TIMEOUT, timedelta(seconds=2 * hang_timeout_s))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"launch.processes: rank {os.environ['RANK']} has no GPU of its own ({torch.cuda.device_count()} here); "
            "start fewer ranks, or hide the GPUs with CUDA_VISIBLE_DEVICES= to use the CPU."
        )
    if cuda:
        torch.cuda.set_device(local_rank)
    else:
        load_cpu_op()
    with contextlib.redirect_stdout(io.StringIO()):  # it reports a build at every start, even of what was built before
        deepspeed.init_distributed(
            dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False, timeout=timeout
        )
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    control = torch.distributed.new_group(backend="gloo", timeout=timeout)
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    mesh = Mesh(rank, world_size, local_rank, device, control, tensor, sequence)
    if tensor > 1:
        _require_one_node(mesh)
        groups._init_tp_mesh_device(tensor_model_parallel_size=tensor)  # rank = data_rank · tensor + tensor_rank
    return mesh


def _require_one_node(mesh: Mesh) -> None:
    """Refuses tensor-parallel peers on several nodes: every layer would wait for the network."""
    nodes: list[Any] = [None] * mesh.world_size
    mine = (socket.gethostname(), mesh.rank - mesh.local_rank)  # one host may stand for several nodes
    torch.distributed.all_gather_object(nodes, mine, group=mesh.control)
    for first in range(0, mesh.world_size, mesh.tensor):
        if len(set(nodes[first : first + mesh.tensor])) > 1:
            raise ConfigError(
                f"parallel.tensor={mesh.tensor}: ranks {first} to {first + mesh.tensor - 1} share layers but aren't on "
                "one node; start a multiple of parallel.tensor ranks on each node, or lower parallel.tensor."
            )


def load_cpu_op() -> None:
    """Builds (once) and loads DeepSpeed's CPU op, one process at a time."""
    from deepspeed.comm.torch import build_shm_op

    with building("deepspeed_shm_comm", "DeepSpeed's CPU op: about a minute"):
        build_shm_op()


@contextlib.contextmanager
def building(name: str, what: str) -> Iterator[None]:
    """Where torch may build the extension `name`, one process at a time; `what` is announced if it must.

    torch guards the build by a lock file that outlives a killed process, and later ones wait for it for ever. Here a
    lock of the kernel's, which dies with its holder, comes first; whatever lock file is there then was left behind.
    """
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    with (root / "banyan.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        for stale in root.glob(f"**/{name}/lock"):
            stale.unlink(missing_ok=True)
        if not any(root.glob(f"**/{name}/{name}.so")):
            print(f"building {what}, this once", flush=True)
        with _own_programs_first(), contextlib.redirect_stdout(io.StringIO()):  # it reports a build at every start
            yield


@contextlib.contextmanager
def _own_programs_first() -> Iterator[None]:
    """Programs installed beside this Python go before the system's: another ninja builds anew what the first built."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seeds torch (weights and dropout have seeds of their own); `deterministic` asks for deterministic kernels."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
        torch.backends.cudnn.benchmark = False
