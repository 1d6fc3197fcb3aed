"""Commands that a process with all imports forks: they end as ever, and nothing outlives who asked for them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trainer.doctor.forker import Forker
from trainer.errors import BanyanError

ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}


def ended(process, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_forked_commands_end_as_ever_and_with_who_started_them(tmp_path):
    with Forker(tmp_path, 0) as forker:
        assert forker.start(["--version"], ENVIRONMENT, "log", timeout_s=60).poll(60) == 0
        assert (tmp_path / "log").read_text().startswith("banyan ")
        assert forker.start(["pretrain", "no.such=key"], ENVIRONMENT, "log", timeout_s=60).poll(60) == 2
        assert "no.such" in (tmp_path / "log").read_text()
        [server] = [child for child in psutil.Process().children() if "launch.forked" in child.cmdline()]
        stopped = forker.start(["pretrain", "--help"], ENVIRONMENT, "log", timeout_s=60)
        while not Path(f"/proc/{stopped.pid}/fd/1").samefile(tmp_path / "log"):
            time.sleep(0.001)
        command = psutil.Process(stopped.pid)
        command.suspend()
    assert ended(server)
    assert ended(command)
    with pytest.raises(BanyanError, match="couldn't be started"):
        forker.start(["--version"], ENVIRONMENT, "log", timeout_s=1)


@pytest.mark.full
def test_what_cannot_use_cuda_after_a_fork_begins_anew(tmp_path):
    planted = "import sys, torch; torch.cuda._is_in_bad_fork = lambda: True; from launch.forked import main; main()"
    order = {"arguments": ["--version"], "environment": ENVIRONMENT, "log": "log"}
    done = subprocess.run(
        [sys.executable, "-c", planted, str(tmp_path)],
        input=json.dumps(order) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    pid, code = done.stdout.split()
    assert (int(pid) > 0, code) == (True, "0")
    assert (tmp_path / "log").read_text().startswith("banyan ")
