"""`python -m launch.ray.ready NODES SECONDS`: returns once the cluster of RAY_ADDRESS has so many living nodes."""

from __future__ import annotations

import os
import socket
import sys
import time

from launch import failure
from launch.ray.cluster import connected, count_nodes
from trainer.errors import BanyanError

POLL_S = 0.5


def wait(nodes: int, timeout_s: float) -> None:
    """Returns once there are `nodes`. BanyanError, saying how many there are, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    alive = 0
    while True:
        try:
            if _answers():
                with connected():
                    while (alive := count_nodes()) < nodes:
                        _require_time(deadline, timeout_s, alive, nodes)
                return
        except BanyanError:  # the head answers before this node's own daemon is ready
            if time.monotonic() > deadline:
                raise
        _require_time(deadline, timeout_s, alive, nodes)


def _answers() -> bool:
    """Whether anybody listens at RAY_ADDRESS; ray.init itself waits for long, and may end the process."""
    host, _, port = os.environ["RAY_ADDRESS"].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False


def _require_time(deadline: float, timeout_s: float, alive: int, nodes: int) -> None:
    if time.monotonic() > deadline:
        raise BanyanError(f"{alive} of {nodes} nodes have joined the Ray cluster in {timeout_s:g} s.")
    time.sleep(POLL_S)


def main() -> int:
    """0 when the nodes are there; 1, with a line, when they don't come."""
    try:
        wait(int(sys.argv[1]), float(sys.argv[2]))
    except Exception as error:
        return failure.report(failure.of_exception(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
