"""One group of ranks on Ray, from asking for room to its end: Ray Train runs it, this watches over it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import ray
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import WorkerGroupError

from launch.failure import Failure
from launch.rank_group import ExitStatus
from launch.ray.cluster import Demand, free_in_words
from launch.ray.waiting_run import WaitingRun
from launch.ray.worker import RankConfig, RanksFailed, RayJob, run_ranks
from trainer.config import Launch
from trainer.errors import STOPPED
from trainer.machine.vanishing_folder import vanishing_folder

COUNT_ANEW_S = {False: "60", True: "15"}  # fixed or elastic: after so long without room Ray looks what fits now
ENDING_S = 15.0  # in which Ray Train notices that ranks have ended for good
POLL_S = 0.2


class Attempt:
    """One group; `received` are the signals that this process got, and keeps getting; `selector`: labels of nodes."""

    def __init__(
        self,
        job: RayJob,
        demand: Demand,
        launch: Launch,
        received: Sequence[int],
        selector: Mapping[str, str] = MappingProxyType({}),
        queue: WaitingRun | None = None,
    ) -> None:
        self._queue = queue or WaitingRun(None)
        self._job = job
        self._demand = demand
        self._launch = launch
        self._received = received
        self._selector = selector
        self._status: ExitStatus | None = None

    def run(self) -> ExitStatus:
        """How the ranks ended. A stop request is passed on to them; where none runs, the attempt is over at once."""
        thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        thread.start()
        try:
            return self._watch(thread)
        except ray.exceptions.RayError as error:
            return _gave_up(error)

    def _watch(self, thread: threading.Thread) -> ExitStatus:
        began, announced, asked = time.monotonic(), False, False
        while thread.is_alive():
            thread.join(POLL_S)
            ranks_run = ray.get(self._job.desk.ranks_run.remote())
            if self._received and not asked:
                if not ranks_run:
                    return self._stop_without_ranks(thread, begun=ranks_run is not None)
                ray.get(self._job.desk.request.remote(self._received[0]))
                asked = True
            if ranks_run is None and not announced and time.monotonic() - began > self._launch.start_timeout_s:
                announced = self._announce_waiting()
        assert self._status is not None
        return self._status

    def _fit(self) -> None:
        """In a thread, so that signals reach the main one, and Ray Train leaves their handlers alone."""
        with vanishing_folder("ray-") as folder:
            try:  # Ray Train logs to its files; what matters of it is said here
                result: Any = _make_trainer(self._job, self._demand, self._selector, str(folder)).fit()
                self._status = ExitStatus(int(result.return_value or 0))
            except WorkerGroupError as error:
                self._status = failure_to_blame(error.worker_failures)
            except Exception as error:
                self._status = _gave_up(error)

    def _stop_without_ranks(self, thread: threading.Thread, *, begun: bool) -> ExitStatus:
        """Ranks that ran before have just ended, or have checkpointed for another size of group."""
        if begun:
            thread.join(ENDING_S)
            return self._status or ExitStatus(STOPPED)
        self._queue.ends()
        code = 128 + self._received[0]
        return ExitStatus(
            code, Failure(time.time(), 0, code, "stopped before the ranks were started; nothing was begun.")
        )

    def _announce_waiting(self) -> bool:
        if not any(group["state"] == "PENDING" for group in ray.util.placement_group_table().values()):
            return False  # there is room: the workers are being started
        waits = f"{self._demand.in_words(self._demand.least)} are needed, {free_in_words()} are free"
        print(f"banyan: waiting for room: {waits}; the ranks start when others have ended", flush=True)
        self._queue.waits(waits)
        return True


class GroupTrainer(DataParallelTrainer):
    """TorchTrainer, without torch's process group in the workers: that is the ranks' business; and without a cleaner.

    Ray Train's cleaner of placement groups finds its cluster by looking for one, which on a shared machine may be
    another's; it would take our controller for dead, and the room away. Ours ends with the job in any case. Without
    torch a worker is 190 MB smaller.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


def _make_trainer(job: RayJob, demand: Demand, selector: Mapping[str, str], folder: str) -> GroupTrainer:
    """Ray Train's part: places the group, watches it, and makes an elastic one anew when the cluster changes."""
    elastic = demand.least < demand.most
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", COUNT_ANEW_S[elastic])
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    settings: dict[str, Any] = {
        "backend_config": RankConfig(),
        "scaling_config": ScalingConfig(
            num_workers=(demand.least, demand.most) if elastic else demand.least,
            use_gpu=demand.gpus > 0,
            resources_per_worker=demand.bundle,
            label_selector=dict(selector) or None,
            elastic_resize_monitor_interval_s=job.launch.resize_check_s,
        ),
        "run_config": RunConfig(
            storage_path=folder,
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    }
    return GroupTrainer(run_ranks, train_loop_config={"job": job}, **settings)


def failure_to_blame(failures: dict[int, Any]) -> ExitStatus:
    """The failure to blame, of workers' exceptions by their rank: a lost or killed one before those it took along."""
    statuses = [_as_status(rank, error) for rank, error in sorted(failures.items())]
    return min(statuses, key=lambda status: (not _was_killed(status), status.failure.time if status.failure else 0))


def _was_killed(status: ExitStatus) -> bool:
    return status.exit_code > 128 and status.exit_code != 134  # an abort may be a lost peer's doing


def _as_status(rank: int, error: Exception) -> ExitStatus:
    if isinstance(error, RanksFailed):
        return error.status
    place = re.search(r"node_ip='([^']+)'", str(error))
    where = f" on {place[1]}" if place else ""
    lost = f"worker {rank}{where} was lost: its process, its node or the network to it died."
    return ExitStatus(137, Failure(0.0, rank, 137, lost))


def _gave_up(error: Exception) -> ExitStatus:
    return ExitStatus(1, Failure(time.time(), 0, 1, f"Ray gave up: {_in_a_line(error)}"))


def _in_a_line(error: Any) -> str:
    return " ".join(str(error).split())
