"""`banyan serve` as a process, with what it prints."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.machine.host import free_port

ROOT = Path(__file__).parents[2]
START_S = 240.0


@dataclass
class Running:
    """A server that listens on `port`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}"

    def scrape(self, key: str | None = None) -> str:
        """What /metrics says."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(f"{self.address}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextlib.contextmanager
def running(folder: Path, *overrides: str, log: Path, start_s: float = START_S) -> Iterator[Running]:
    """Serves a Hugging Face folder until the end of the block; it may take `start_s` to begin."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "launch", "serve", f"path={folder}", f"serve.port={port}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "serve.threads=1", *overrides], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    found = Running(process, port, log)
    try:
        end = time.monotonic() + start_s
        while not found.is_ready():
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.1)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
