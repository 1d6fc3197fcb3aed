"""Runs verbs on real ranks: processes on gloo, forked from one server that has imported torch and DeepSpeed."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.config import Pretrain
from trainer.machine.host import free_port

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.warmed"])


@dataclasses.dataclass
class Ranks:
    """Started ranks; `errors_dir` gets a file from each that raises."""

    processes: list[Any]
    errors_dir: Path

    def wait(self, timeout_s: float = 240) -> list[int]:
        """Exit codes, once all have ended."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                stacks = self._stacks()
                self.kill()
                raise TimeoutError(f"a rank didn't end within {timeout_s} s; where they are:\n{stacks}")
        return [process.exitcode for process in self.processes]

    def _stacks(self) -> str:
        """Where each rank's threads are now, of those that run."""
        for process in self.processes:
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGUSR2)
        time.sleep(1)
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(self.errors_dir.glob("stacks-*")))

    def kill_once_saved(self, run_dir: Path, *, seconds: float = 120) -> None:
        """Kills every rank by SIGKILL as soon as the run has a checkpoint."""
        deadline = time.monotonic() + seconds
        while not list((run_dir / "checkpoints").glob("step-*/COMPLETE")):
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """SIGKILL for all."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def errors(self) -> list[str]:
        """What the ranks raised, as "Type: message", by rank."""
        return [path.read_text() for path in sorted(self.errors_dir.glob("[0-9]*"))]


def start_ranks(work: Callable[[Any], int], argument: Any, world_size: int) -> Ranks:
    """Starts `work(argument)` on `world_size` ranks; a rank's exit code is what work returns."""
    port = free_port() if world_size > 1 else 0
    errors_dir = Path(tempfile.mkdtemp(prefix="ranks-"))
    processes = [
        _context.Process(target=_run_rank, args=(work, argument, rank, world_size, port, errors_dir))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return Ranks(processes, errors_dir)


def run_ranks(work: Callable[[Any], int], argument: Any, world_size: int) -> list[int]:
    """Exit codes of the ranks, once all have ended."""
    return start_ranks(work, argument, world_size).wait()


def fail_ranks(work: Callable[[Any], int], argument: Any, world_size: int = 1) -> tuple[list[int], list[str]]:
    """Exit codes and errors of ranks that are expected to fail."""
    ranks = start_ranks(work, argument, world_size)
    return ranks.wait(), ranks.errors()


def _run_rank(
    work: Callable[[Any], int], argument: Any, rank: int, world_size: int, port: int, errors_dir: Path
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
    )
    faulthandler.register(signal.SIGUSR2, file=(errors_dir / f"stacks-{rank:05d}").open("w"))  # Ranks._stacks
    import torch

    torch.set_num_threads(1)
    try:
        code = work(argument)
    except Exception as error:
        traceback.print_exc()
        (errors_dir / f"{rank:05d}").write_text(f"{type(error).__name__}: {error}")
        code = getattr(error, "exit_code", 1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def pretrain(config: Pretrain) -> int:
    """The verb, imported on the rank."""
    from trainer.verbs.pretrain import main

    return main(config)


def small_config(data: Path, run_dir: Path, **changes: Any) -> Pretrain:
    """A run of seconds: a model of 70 thousand parameters; `changes` are dotted keys with __ for the dots."""
    config = Pretrain()
    config.run.dir = str(run_dir)
    config.data.path = str(data)
    config.data.sequence_length = 32
    config.data.shuffle_shards = 2
    model = config.model
    model.hidden_size, model.intermediate_size, model.num_hidden_layers = 48, 96, 2
    model.num_attention_heads, model.num_key_value_heads = 4, 2
    config.train.precision = "fp32"  # also where the processor multiplies bf16
    config.train.steps, config.train.batch_size, config.train.micro_batch_size = 10, 8, 2
    config.optimizer.lr = 3e-3
    config.schedule.warmup_steps = 2
    config.checkpoint.every = 0
    config.evaluate.every = 0
    config.evaluate.prompt = None
    config.track.every = 1
    config.track.wandb.mode = "disabled"
    for key, value in changes.items():
        *parents, name = key.split("__")
        section = config
        for parent in parents:
            section = getattr(section, parent)
        assert name in {field.name for field in dataclasses.fields(section)}, key
        setattr(section, name, value)
    return config


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Training rows of metrics.jsonl, by step."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "train/loss" in row]
