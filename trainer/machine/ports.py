"""A port for ranks to meet at."""

from __future__ import annotations

import secrets
import socket

RANGE = range(20000, 32768)
"""Below those that the kernel gives to outgoing connections (ip_local_port_range, from 32768), one of which could take
a port between its choice here and its use by rank 0; above those of Ray's workers (from 10002 to 19999)."""


def free_port() -> int:
    """A TCP port on this machine that nobody listens on."""
    while True:
        port = RANGE[secrets.randbelow(len(RANGE))]
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
        return port
