"""Ranks: joins the process group and says which device and which share of the data are this rank's."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
import xxhash

from trainer.errors import BanyanError, ConfigError
from trainer.machine.host import node_name
from trainer.machine.process import raise_file_limit
from trainer.ranks import messages
from trainer.ranks.collectives import COLLECTIVES
from trainer.ranks.driver import require_driver
from trainer.ranks.extensions import choose_folder, load_cpu_op
from trainer.ranks.rendezvous import call_roll, keep_to_interface, open_store

T = TypeVar("T")

LAZY_GLOO = "TORCH_GLOO_LAZY_INIT"
"""Ranks connect when they first have something to send: 6 descriptors for a group of any size, in place of one for each
rank, and no exchange of addresses through the store that grows with the square of their number (docs/SCALE.md)."""

FLIGHT_RECORD = "2000"  # collectives of NCCL's that a rank remembers, a few hundred bytes each; read at a hang
TIMEOUT = timedelta(minutes=30)
"""Longest wait in a collective; the watchdog (watchdog.py) notices a hang before, and says more."""


@dataclass(frozen=True)
class Mesh:
    """This rank's place among `world_size` = data_size · tensor · sequence ranks.

    Neighbours share layers (`tensor` of them, side by side) or sequences (`sequence` of those); they take the same part
    of the data.
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
        """Which part of each sequence this rank takes, as do its tensor-parallel peers."""
        return self.rank // self.tensor % self.sequence

    def barrier(self) -> None:
        """Returns once every rank is here."""
        torch.distributed.barrier(group=self.control)

    def from_main(self, value: T) -> T:
        """Rank 0's `value`, on every rank; it is of a type that messages.py knows."""
        return messages.broadcast(value, self.control)

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

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, by rank, on every rank; of a type that messages.py knows."""
        return messages.gather(value, self.control)

    def first(self, problem: str | None) -> str | None:
        """The problem of the lowest rank that has one, on every rank."""
        lowest = torch.tensor([self.rank if problem else self.world_size])
        torch.distributed.all_reduce(lowest, op=torch.distributed.ReduceOp.MIN, group=self.control)
        source = int(lowest.item())
        return messages.broadcast(problem, self.control, source=source) if source < self.world_size else None

    def leave(self) -> None:
        """Ends the process group; every rank must have come here."""
        self.barrier()
        torch.distributed.destroy_process_group()


def join(*, tensor: int = 1, sequence: int = 1, hang_timeout_s: float = 0.0, roll_call_s: float | None = None) -> Mesh:
    """Joins the group that RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR describe: nccl with a GPU each, else gloo.

    Its collectives wait for TIMEOUT, or twice `hang_timeout_s` if that is longer; so do ranks for each other here. With
    `roll_call_s` they do so for as long, and AbsentError says which ranks have come where not all have.
    """
    import deepspeed
    from deepspeed.utils import groups

    timeout = max(TIMEOUT, timedelta(seconds=2 * hang_timeout_s))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda:
        require_driver()
    if cuda and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"launch.processes: rank {os.environ['RANK']} has no GPU of its own ({torch.cuda.device_count()} here); "
            "start fewer ranks, or hide the GPUs with CUDA_VISIBLE_DEVICES= to use the CPU."
        )
    if cuda:
        torch.cuda.set_device(local_rank)
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", FLIGHT_RECORD)
        os.environ.setdefault("TORCH_NCCL_TRACE_BUFFER_SIZE", FLIGHT_RECORD)  # its name before
    COLLECTIVES.install()
    raise_file_limit()
    choose_folder()
    if not cuda:
        load_cpu_op()
    control = _join_group(torch.device("cuda", local_rank) if cuda else None, timeout, roll_call_s)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports a build at every start, even of what was built before
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timeout)  # finds the group made
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    mesh = Mesh(rank, world_size, local_rank, device, control, tensor, sequence)
    if tensor > 1:  # rank = data_rank · tensor + tensor_rank
        groups._DATA_PARALLEL_GROUP = own_group([range(each, world_size, tensor) for each in range(tensor)])
        peers = own_group([range(first, first + tensor) for first in range(0, world_size, tensor)])
        groups._TENSOR_MODEL_PARALLEL_GROUP = groups._MODEL_PARALLEL_GROUP = peers
        _require_one_node(mesh, peers)
    return mesh


def own_group(sharing: Sequence[Sequence[int]]) -> torch.distributed.ProcessGroup:
    """The group of this rank where all ranks are dealt out among groups: `sharing` says how. Every rank calls it.

    All are made at once, whatever their number: nccl splits the world, and a group of gloo is made by its own ranks.
    DeepSpeed would make one after the other, each by all ranks.
    """
    in_detail = torch.distributed.get_debug_level() == torch.distributed.DebugLevel.DETAIL  # whose wrapper can't split
    if torch.distributed.get_backend() == "nccl" and not in_detail:
        group = torch.distributed.split_group(split_ranks=[list(ranks) for ranks in sharing])
        assert group is not None
        return group
    rank = torch.distributed.get_rank()
    own = next(ranks for ranks in sharing if rank in ranks)
    return torch.distributed.new_group(list(own), use_local_synchronization=True)


class AbsentError(BanyanError):
    """Ranks that didn't come. `came`: where those are that did."""

    def __init__(self, came: dict[int, str], world_size: int) -> None:
        self.came, self.absent = came, [rank for rank in range(world_size) if rank not in came]
        few = ", ".join(map(str, self.absent[:8])) + (" …" if len(self.absent) > 8 else "")
        super().__init__(f"{len(self.absent):,} of {world_size:,} ranks never came: {few}")


def _open_store_by_roll(timeout: timedelta, roll_call: timedelta) -> torch.distributed.Store:
    """The store, once all ranks have said that they are here. AbsentError if they don't within `roll_call`."""
    store = open_store(os.environ, roll_call, waits_for_all=False)
    came = call_roll(store, os.environ, node_name(), roll_call)
    if len(came) < (world_size := int(os.environ["WORLD_SIZE"])):
        raise AbsentError(came, world_size)
    store.set_timeout(timeout)
    return store


def _join_group(
    device: torch.device | None, timeout: timedelta, roll_call_s: float | None
) -> torch.distributed.ProcessGroup:
    """Makes the default group, of nccl where this rank has a `device`, and returns one of gloo on CPU tensors.

    BanyanError if the peers don't come.
    """
    keep_to_interface(os.environ)
    os.environ.setdefault(LAZY_GLOO, "1")
    world_size = int(os.environ["WORLD_SIZE"])
    try:
        if roll_call_s is None:
            store = open_store(os.environ, timeout)
        else:
            store = _open_store_by_roll(timeout, timedelta(seconds=roll_call_s))
        torch.distributed.init_process_group(
            "nccl" if device is not None else "gloo",
            store=store,
            rank=int(os.environ["RANK"]),
            world_size=world_size,
            timeout=timeout,
            device_id=device if world_size > 1 else None,  # alone it would only make later groups dearer
        )
        return torch.distributed.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:  # of the store, gloo and nccl
        place = f"MASTER_ADDR={os.environ['MASTER_ADDR']} MASTER_PORT={os.environ['MASTER_PORT']}"
        what = f"didn't find the others at {place}" if world_size > 1 else "can't open a socket (is lo up?)"
        raise BanyanError(f"rank {os.environ['RANK']} {what}: {str(error).splitlines()[0]}") from error


def _require_one_node(mesh: Mesh, peers: torch.distributed.ProcessGroup) -> None:
    """Refuses tensor-parallel `peers` on several nodes: every layer would wait for the network. Each asks its own."""
    node = f"{socket.gethostname()}/{mesh.rank - mesh.local_rank}"  # one host may stand for several nodes
    own = torch.tensor([xxhash.xxh3_64_intdigest(node.encode()) >> 1], device=mesh.device)
    nodes = [torch.empty_like(own) for _ in range(mesh.tensor)]
    torch.distributed.all_gather(nodes, own, group=peers)
    first = mesh.rank - mesh.tensor_rank
    apart = not all(torch.equal(node, own) for node in nodes)
    problem = mesh.first(
        f"parallel.tensor={mesh.tensor}: ranks {first} to {first + mesh.tensor - 1} share layers but aren't on one "
        "node; start a multiple of parallel.tensor ranks on each node, or lower parallel.tensor."
        if apart
        else None
    )
    if problem:
        raise ConfigError(problem)


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seeds torch (weights and dropout have seeds of their own); `deterministic` asks for deterministic kernels."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
        torch.backends.cudnn.benchmark = False
