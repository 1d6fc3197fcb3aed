"""Runs verbs on real ranks: processes on gloo, forked from one server that has imported torch and DeepSpeed."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.config import Pretrain

_context = multiprocessing.get_context("forkserver")
PRELOADED = [
    "torch",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "trainer.pretrain",
    "trainer.evaluate",
]
_context.set_forkserver_preload(PRELOADED)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_ranks(work: Callable[[Any], int], argument: Any, world_size: int) -> list[Any]:
    """Starts `work(argument)` on `world_size` ranks and returns the processes; the exit code is what work returns."""
    port = free_port()
    processes = [
        _context.Process(target=_run_rank, args=(work, argument, rank, world_size, port)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def run_ranks(work: Callable[[Any], int], argument: Any, world_size: int, timeout_s: float = 240) -> list[int]:
    """Exit codes of the ranks, once all have ended."""
    processes = start_ranks(work, argument, world_size)
    for process in processes:
        process.join(timeout_s)
        if process.exitcode is None:
            for other in processes:
                other.kill()
            raise TimeoutError(f"a rank didn't end within {timeout_s} s")
    return [process.exitcode for process in processes]


def _run_rank(work: Callable[[Any], int], argument: Any, rank: int, world_size: int, port: int) -> None:
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
    import torch

    torch.set_num_threads(1)
    try:
        code = work(argument)
    except Exception as error:
        traceback.print_exc()
        code = getattr(error, "exit_code", 1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def pretrain(config: Pretrain) -> int:
    """The verb, imported on the rank."""
    from trainer.pretrain import main

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
