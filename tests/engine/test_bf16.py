"""Whether the processor multiplies bf16."""

import platform
from pathlib import Path

import pytest
import torch

from trainer.engine.bf16 import multiplies_bf16

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="/proc/cpuinfo tells the features of x86 on Linux"
)
def test_as_the_kernel_says():
    flags = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")).split()
    assert multiplies_bf16(torch.device("cpu")) == bool({"amx_bf16", "avx512_bf16"} & set(flags))
