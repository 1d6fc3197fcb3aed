"""The map over processes: order, errors, and no orphans."""

import os
import signal
import subprocess
import sys
import time

import pytest

from trainer.data.text.workers import processes
from trainer.errors import InputError

ORPHANS = """
import os, time
from trainer.data.text.workers import processes

def work(item):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with processes(2) as map_items:
        list(map_items(work, range(4)))
"""


def triple(item):
    if item == 7:
        raise InputError("seven")
    return os.getpid(), 3 * item


def test_results_come_in_order_and_from_other_processes():
    with processes(2) as map_items:
        results = list(map_items(triple, range(7)))
        with pytest.raises(InputError, match="seven"):
            list(map_items(triple, range(20)))
    assert [result for _, result in results] == [0, 3, 6, 9, 12, 15, 18]
    assert os.getpid() not in {process for process, _ in results}


def test_one_worker_or_one_item_starts_no_process():
    with processes(1) as map_items:
        assert {process for process, _ in map_items(triple, range(3))} == {os.getpid()}
    with processes(4) as map_items:
        assert list(map_items(triple, [2])) == [(os.getpid(), 6)]


def test_workers_end_when_the_parent_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(ORPHANS)
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
