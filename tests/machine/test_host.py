"""Free ports, and whether the processor multiplies bf16."""

import platform
import re
import socket
from pathlib import Path

import pytest
import torch

from trainer.machine import host
from trainer.machine.host import CPUINFO, PORTS, free_port, multiplies_bf16


def test_no_outgoing_connection_can_take_a_port():
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    assert max(PORTS) < int(re.split(r"\s+", text)[0])
    assert all(free_port() in PORTS for _ in range(20))


def test_a_port_that_is_taken_is_not_given(monkeypatch):
    first, second = free_port(), free_port()
    monkeypatch.setattr(host, "PORTS", range(first, first + 1))
    assert free_port() == first
    with socket.create_server(("127.0.0.1", second)):
        monkeypatch.setattr(host, "PORTS", [second, second, second, first])
        assert {free_port() for _ in range(20)} == {first}


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="/proc/cpuinfo lists the features of x86 on Linux"
)
def test_bf16_as_torch_says():
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
def test_bf16_as_the_kernel_says(tmp_path, lines, native):
    (tmp_path / "cpuinfo").write_text(lines)
    assert multiplies_bf16(tmp_path / "cpuinfo") is native
    assert not multiplies_bf16(Path("/nowhere/cpuinfo"))
