import re
import socket
from pathlib import Path

from trainer.machine import ports as port
from trainer.machine.ports import RANGE, free_port


def test_no_outgoing_connection_can_take_it():
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    assert max(RANGE) < int(re.split(r"\s+", text)[0])
    assert all(free_port() in RANGE for _ in range(20))


def test_one_that_is_taken_is_not_given(monkeypatch):
    first, second = free_port(), free_port()
    monkeypatch.setattr(port, "RANGE", range(first, first + 1))
    assert free_port() == first
    with socket.create_server(("127.0.0.1", second)):
        monkeypatch.setattr(port, "RANGE", [second, second, second, first])
        assert {free_port() for _ in range(20)} == {first}
