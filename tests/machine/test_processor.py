"""Whether the processor multiplies bf16."""

import platform
from pathlib import Path

import pytest
import torch

from trainer.machine.processor import CPUINFO, multiplies_bf16


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="/proc/cpuinfo tells the features of x86 on Linux"
)
def test_as_torch_says():
    found = torch.cpu.get_capabilities()
    assert multiplies_bf16() == bool(found.get("amx_bf16") or found.get("avx512_bf16"))


@pytest.mark.parametrize(
    ("lines", "native"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f amx_bf16 amx_tile\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2\nbugs\t\t: bf16\n", False),
    ],
)
def test_as_the_kernel_says(tmp_path, lines, native):
    (tmp_path / "cpuinfo").write_text(lines)
    assert multiplies_bf16(tmp_path / "cpuinfo") is native
    assert not multiplies_bf16(Path("/nowhere/cpuinfo"))
