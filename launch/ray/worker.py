"""What runs inside Ray: each worker starts its ranks as processes, as the local launcher does, and ends with them.

Ray gives the worker its place in the group; the ranks are `python -m launch VERB …` and know nothing of Ray. They join
each other by MASTER_ADDR, take signals, and die with the worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

from launch import rank_environment
from launch.failure import Failure
from launch.rank_group import ExitStatus, RankGroup
from launch.ray.blamed import placed
from trainer.config import Launch
from trainer.machine.host import NODE_VARIABLE, free_port

STOP_GRACE_S = 10.0  # for ranks that stay when one has failed
RESIZE_GRACE_S = 900.0  # for the checkpoint before a group of another size
POLL_S = 0.5

_group: RankGroup | None = None  # of this worker


class RanksFailed(Exception):
    """A rank of this worker failed; `args[0]` is the Outcome."""

    def __str__(self) -> str:
        return self.status.failure.message if self.status.failure else ""

    @property
    def status(self) -> ExitStatus:
        """How they ended."""
        return self.args[0]


@dataclass(frozen=True)
class RayJob:
    """What every worker must know. `folder` is where ranks run, None: where the worker is.

    `variables` are those of the driver's environment that ranks need.
    """

    arguments: Sequence[str]
    launch: Launch
    ranks: int
    has_cuda: bool
    folder: str | None
    variables: dict[str, str]
    desk: Any  # handle of the StopDesk actor


def run_ranks(settings: dict[str, RayJob]) -> int:
    """Ray Train's function: runs this worker's ranks to their end; 0 or 85. Raises RanksFailed."""
    global _group
    job = settings["job"]
    _enter(job.folder)
    _group = RankGroup(_command(job), _environments(job), STOP_GRACE_S)
    with _open_to_requests(job.desk, _group):
        status = _group.attend()
    _group = None
    if status.failure is not None:
        raise RanksFailed(placed(status, ray.util.get_node_ip_address()))
    return status.exit_code


def _enter(folder: str | None) -> None:
    """Stands where the driver stands, so that relative paths mean the same."""
    if folder is None:
        return
    try:
        os.chdir(folder)
    except OSError as error:
        node = ray.util.get_node_ip_address()
        failure = Failure(
            time.time(),
            ray.train.get_context().get_world_rank(),
            2,
            f"{folder}: not on node {node} ({error.strerror}); start where storage that all nodes share is mounted.",
        )
        raise RanksFailed(ExitStatus(2, failure)) from error


def _command(job: RayJob) -> list[str]:
    return [sys.executable, "-P", "-m", "launch", *job.arguments]


def _environments(job: RayJob) -> list[dict[str, str]]:
    """The environment of each of this worker's ranks; all ranks of a node count as local to each other."""
    context, count = ray.train.get_context(), job.ranks
    common = {**os.environ, **job.variables, NODE_VARIABLE: ray.util.get_node_ip_address()}
    if not job.has_cuda:
        common |= {"CUDA_VISIBLE_DEVICES": ""}
        common.setdefault("DS_ACCELERATOR", "cpu")
    common["OMP_NUM_THREADS"] = str(job.launch.threads or max(1, int(job.launch.cpus_per_worker)))
    common |= rank_environment.for_threads(context.get_local_world_size() * count, job.launch.threads, common)
    return [
        common
        | {
            "RANK": str(context.get_world_rank() * count + number),
            "WORLD_SIZE": str(context.get_world_size() * count),
            "LOCAL_RANK": str(context.get_local_rank() * count + number),
            "LOCAL_WORLD_SIZE": str(context.get_local_world_size() * count),
        }
        for number in range(count)
    ]


@contextlib.contextmanager
def _open_to_requests(desk: Any, group: RankGroup) -> Iterator[None]:
    """On rank 0's worker: passes the driver's stop request on. The ranks agree on the stop by themselves."""
    if ray.train.get_context().get_world_rank() > 0:
        yield
        return
    ended = threading.Event()
    ray.get(desk.report.remote(True))
    threading.Thread(target=_pass_on, args=(desk, group, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        ray.get(desk.report.remote(False))


def _pass_on(desk: Any, group: RankGroup, ended: threading.Event) -> None:
    while not ended.wait(POLL_S):
        number = ray.get(desk.requested.remote())
        if number is not None:
            group.send(number)
            return


class RankConfig(BackendConfig):
    """Names the backend in the place of torch's, which would make a process group of the workers themselves."""

    @property
    def backend_cls(self) -> type[Backend]:
        """RankBackend."""
        return RankBackend


class RankBackend(Backend):
    """Tells the ranks where to meet; before a group ends, lets its ranks checkpoint. Runs in Ray Train's controller."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Every worker learns rank 0's address and a free port there."""
        place = worker_group.execute_single(0, find_meeting_place)
        worker_group.execute(prepare_meeting, place)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Ends what ranks still run. Nothing has failed where Ray wants another size: then they checkpoint first."""
        status = worker_group.get_latest_poll_status()
        planned = status is not None and not status.errors and not status.finished
        if planned:
            print(
                "banyan: the cluster has changed; the ranks checkpoint and start again, in another number", flush=True
            )
        grace_s = RESIZE_GRACE_S if planned else STOP_GRACE_S
        ends = worker_group.execute_async(end_ranks, grace_s)
        ray.wait(ends, num_returns=len(ends), timeout=grace_s + STOP_GRACE_S)


def find_meeting_place() -> dict[str, str]:
    """Address of this node and a free port on it, as torch.distributed wants them."""
    return {"MASTER_ADDR": ray.util.get_node_ip_address(), "MASTER_PORT": str(free_port())}


def prepare_meeting(place: dict[str, str]) -> None:
    """Notes the meeting place for the ranks."""
    os.environ.update(place)


def end_ranks(grace_s: float) -> None:
    """Asks this worker's ranks to stop and waits for that; those that stay die with the worker."""
    group, deadline = _group, time.monotonic() + grace_s
    if group is not None:
        group.send(signal.SIGTERM)
    while _group is not None and time.monotonic() < deadline:
        time.sleep(POLL_S / 10)
