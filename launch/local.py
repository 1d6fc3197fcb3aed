"""`launch=local`: the ranks of a job on this machine.

    banyan pretrain launch=local launch.processes=2

Everything that can be refused is refused before a process is started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from launch import rank_environment
from launch.memory_check import has_gpus
from launch.rank_group import RankGroup
from trainer.config import Launch
from trainer.errors import ConfigError
from trainer.machine.host import free_port

STOP_GRACE_S = 10.0
"""How long ranks may take to end by themselves once one has failed."""


def processes_for(config: Launch, cuda_devices: int) -> int:
    """How many ranks to start: launch.processes, by default one per CUDA device, or one."""
    if config.processes is None:
        return max(1, cuda_devices)
    if 0 < cuda_devices < config.processes:
        raise ConfigError(
            f"launch.processes={config.processes}: this machine has {cuda_devices} CUDA "
            f"device{'s' * (cuda_devices > 1)}, one for each rank; use at most that many, "
            'or hide them with CUDA_VISIBLE_DEVICES="".'
        )
    return config.processes


def count_cuda_devices(environment: Mapping[str, str]) -> int:
    """CUDA devices that torch can use. It is asked in another process, so that threads can still be set in this one."""
    if not has_gpus(environment):
        return 0
    question = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    answer = subprocess.run(question, env=dict(environment), capture_output=True, encoding="utf-8", check=True)
    return int(answer.stdout.split()[-1])


def run(config: Launch, command: Sequence[str], in_process: Callable[[], int], check: Callable[[int], None]) -> int:
    """Runs a verb on this machine's ranks and returns its exit code.

    `check` refuses, by raising, what a number of ranks can't honour. One rank runs here, by `in_process`; several run
    as processes of `command`.
    """
    cuda_devices = count_cuda_devices(os.environ)
    processes = processes_for(config, cuda_devices)
    check(processes)
    environments = rank_environments(processes, config.threads, os.environ, has_cuda=cuda_devices > 0)
    if processes > 1:
        return launch(command, environments)
    os.environ.update(environments[0])
    return in_process()


def launch(
    command: Sequence[str], environments: Sequence[Mapping[str, str]], stop_grace_s: float = STOP_GRACE_S
) -> int:
    """Runs `command` once per environment, as ranks of one job, and returns the job's exit code.

    0 if all ended with 0, 85 if some stopped after a checkpoint, otherwise the first failing rank's (128 + n for
    signal n).
    """
    return RankGroup(command, environments, stop_grace_s).run()


def rank_environments(
    processes: int, threads: int | None, environment: Mapping[str, str], *, has_cuda: bool
) -> list[dict[str, str]]:
    """The whole environment of each rank. Without CUDA it says so, or DeepSpeed would search for it and complain."""
    threading = rank_environment.for_threads(processes, threads, environment)
    common = {**environment, **threading, **rank_environment.for_compiler(environment)}
    if not has_cuda:
        common.setdefault("DS_ACCELERATOR", "cpu")
    port = free_port() if processes > 1 else 0  # one rank meets nobody: whichever the kernel gives
    return [common | rank_environment.for_rank(rank, processes, port) for rank in range(processes)]
