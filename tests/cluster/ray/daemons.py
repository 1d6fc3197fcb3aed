"""A Ray cluster of real daemons on this machine, whose nodes have addresses of their own: 127.0.1.1, 127.0.1.2, …"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.machine.host import free_port

ROOT = Path(__file__).parents[3]
STORE_BYTES = 100 * 2**20
SMALL_RUN = [
    "data.sequence_length=32",
    "data.shuffle_shards=2",
    "model.hidden_size=48",
    "model.intermediate_size=96",
    "model.num_hidden_layers=2",
    "train.batch_size=8",
    "train.micro_batch_size=1",
    "train.precision=fp32",
    "optimizer.lr=3e-3",
    "evaluate.every=0",
    "evaluate.prompt=null",
    "track.every=1",
    "track.wandb.mode=disabled",
]

ENDLESS = ["train.steps=100000", "schedule=constant", "schedule.warmup_steps=2", "checkpoint.every=50"]
"""For runs that are ended by a stop: how far they come depends on the machine."""


class Daemons:
    """The cluster: a head with `cpus` CPUs, and nodes that come and go. Ends what it started by process number."""

    def __init__(self, *, cpus: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="br-", dir="/tmp"))  # sockets have short names
        os.environ.update(environment())
        from ray._common.utils import get_default_ray_temp_dir
        from ray.cluster_utils import Cluster

        # Cluster leaves its address there as well, and nobody has made it where no Ray ran before.
        Path(get_default_ray_temp_dir()).mkdir(exist_ok=True)

        def start_head() -> Cluster:
            self._port = free_port()
            ports = {"dashboard_port": self._port, "dashboard_agent_listen_port": free_port()}
            head = {"temp_dir": str(self.folder), "include_dashboard": True, **ports}
            return Cluster(initialize_head=True, head_node_args=head | _node(1, cpus))

        self._cluster: Any = _insist(start_head)
        self.dashboard = f"http://127.0.0.1:{self._port}"
        # Where a job looks for its cluster; without it, it takes whichever was started last on the machine.
        (self.folder / "ray_current_cluster").write_text(self.address)

    @property
    def address(self) -> str:
        """What RAY_ADDRESS must be."""
        return self._cluster.address

    def add_node(self, number: int, *, cpus: int, **more: Any) -> Any:
        """Starts node 127.0.1.NUMBER; `more` are parameters of Ray's, such as env_vars."""
        return _insist(lambda: self._cluster.add_node(**_node(number, cpus), **more))

    def kill_node(self, node: Any) -> None:
        """Kills every process of a node at once, as a failing machine does."""
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        """Ends all daemons and removes their folder."""
        self._cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def banyan(self, *arguments: str, log: Path) -> Driver:
        """Starts `banyan ARGUMENTS` as a driver on the head."""
        variables = {**os.environ, "RAY_ADDRESS": self.address}
        with log.open("wb") as file:
            command = [sys.executable, "-P", "-m", "launch", *arguments]
            process = subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
        return Driver(process, log)

    def job(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs `ray job ARGUMENTS`."""
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "job", *arguments]
        return subprocess.run(
            command,
            env={**os.environ, "RAY_ADDRESS": self.dashboard},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )


@dataclass
class Driver:
    """A `banyan` that runs; what it prints is in `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait(self, timeout_s: float = 240) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"no end within {timeout_s} s:\n{self.output()}") from None

    def wait_until(self, ready: Callable[[], Any], timeout_s: float = 240) -> None:
        """Returns once `ready()`; fails if the driver ends before."""
        wait_until(lambda: ready() or self.process.poll() is not None, timeout_s, self.output)
        assert ready(), self.output()


def wait_until(ready: Callable[[], Any], timeout_s: float, message: Callable[[], str] = str) -> None:
    """Returns once `ready()`; fails after `timeout_s`, with what `message()` says."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"not within {timeout_s} s\n{message()}"
        time.sleep(0.1)


def ranks_of(run_dir: Path) -> list[psutil.Process]:
    """The processes of a run's ranks on this machine, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            variables = process.environ() if f"run.dir={run_dir}" in process.cmdline() else {}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if "RANK" in variables:
            found[int(variables["RANK"])] = process
    return [found[rank] for rank in sorted(found)]


def calm_rows(data: Path, run_dir: Path, steps: int, *, world_size: int, **changes: Any) -> list[dict[str, Any]]:
    """What SMALL_RUN with ENDLESS and `changes` logs up to `steps` if nothing disturbs it, by ranks without Ray."""
    endless = {"train__steps": 100000, "train__stop_at": steps, "schedule__name": "constant"}
    config = small_config(data, run_dir, **{"train__micro_batch_size": 1} | endless | changes)
    assert run_ranks(pretrain, config, world_size) == [85] * world_size
    return read_metrics(run_dir)


def environment() -> dict[str, str]:
    """What daemons, drivers and ranks are started with."""
    return {
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",  # by default a minute, which a busy machine may not keep
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
    }


def _insist(start: Callable[[], Any]) -> Any:
    """Ray gives a node half a minute to start, which a busy machine may not keep."""
    for _ in range(14):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def _node(number: int, cpus: int) -> dict[str, Any]:
    return {"num_cpus": cpus, "node_ip_address": f"127.0.1.{number}", "object_store_memory": STORE_BYTES}
