"""Refuses a run that its devices can't hold, before one is taken: plan's prediction against what is known of them.

Nothing is refused where the device's memory isn't known, or the model's: launch.device says it where it can't be seen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trainer.config import AUTO, Pretrain
from trainer.config.launchers import LAUNCHERS
from trainer.errors import ConfigError
from trainer.machine.host import multiplies_bf16
from trainer.rules.layouts import settle_precision

ANSWER_S = 10.0  # longest wait for nvidia-smi


def check_memory(config: Pretrain, world_size: int) -> None:
    """ConfigError if a rank needs more than its device has, by more than the prediction may be wrong."""
    known = config.model.path is None and config.model.kind == "decoder" and config.adapt.name == "full"
    if not config.launch.check_memory or not known:
        return  # what isn't predicted isn't refused
    from trainer.planning.cluster import with_vocabulary
    from trainer.planning.fit import default_micro_batch, memory_problem

    model = with_vocabulary(config.model, config.data)
    capacity = device_memory(config, world_size)
    if model is None or capacity is None:
        return
    size, cuda, name = capacity
    precision = settle_precision(config, world_size, native_bf16=cuda or multiplies_bf16())
    train = replace(config.train, precision=precision)
    if train.micro_batch_size == AUTO:
        train = replace(train, micro_batch_size=1)  # it takes what fits, be it a single sequence
    planned = replace(config, model=model, train=train)
    if train.micro_batch_size is None:
        micro_batch_size = default_micro_batch(planned, world_size, cuda=cuda, memory=size)
        planned = replace(planned, train=replace(train, micro_batch_size=micro_batch_size))
    message = memory_problem(planned, world_size, memory=size, cuda=cuda, device=name)
    if message:
        raise ConfigError(message)


def device_memory(config: Pretrain, world_size: int) -> tuple[int, bool, str] | None:
    """Bytes that a rank may use, whether on a GPU, and of what; None where that can't be known from here."""
    from trainer.planning.devices import find_device, host_memory

    if config.launch.device is not None:
        device = find_device(config.launch.device, key="launch.device")
        return device.memory, True, device.name
    if not LAUNCHERS[config.launch.name].here:
        return None
    if has_gpus(os.environ):
        size = gpu_memory()
        return None if size is None else (size, True, "this machine's GPUs")
    return host_memory() // world_size, False, "this machine"


def has_gpus(environment: Mapping[str, str]) -> bool:
    """Whether there is a driver here, and GPUs that aren't hidden; torch may still not be able to use them."""
    hidden = environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None)


def gpu_memory() -> int | None:
    """Bytes of the largest GPU that ranks started here may use; None if nvidia-smi doesn't say."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    question = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    question += [f"--id={visible}"] if visible else []
    try:
        answer = subprocess.run(question, capture_output=True, encoding="utf-8", timeout=ANSWER_S, check=True).stdout
        return max(int(line) for line in answer.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
