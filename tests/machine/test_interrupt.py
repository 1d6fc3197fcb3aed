"""Signals before the first step: they end a start wherever it is, in a line."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from trainer.machine.interrupt import Interrupted, Raise, interruptible
from trainer.run.lock import Holder

LINE = "before the first step; the same command starts again\n"
SMALL = ("data.sequence_length=32", "train.batch_size=8", "model=tiny", "track.wandb.mode=disabled")


def start(*arguments, **variables):
    command = [sys.executable, "-P", "-m", "launch", "pretrain", *SMALL, *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def leave_foreign_lock(run_dir):
    """One that is waited for: as if from a machine whose clock is an hour ahead."""
    run_dir.mkdir()
    holder = {**dataclasses.asdict(Holder.myself()), "machine": "another", "host": "n7"}
    (run_dir / "lock").write_text(json.dumps(holder))
    os.utime(run_dir / "lock", (time.time() + 3600,) * 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_start_that_waits_for_a_lock_ends_by_a_signal(corpus, tmp_path, processes):
    leave_foreign_lock(tmp_path / "run")
    process = start(f"data.path={corpus}", f"run.dir={tmp_path / 'run'}", f"launch.processes={processes}")
    for line in process.stdout:
        if "locked from n7" in line:
            break
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, f"banyan: ended by SIGTERM {LINE}")
    assert (tmp_path / "run" / "lock").exists()  # another's


def test_a_rank_that_is_stuck_in_a_library_ends_by_a_signal(corpus, tmp_path):
    """Its peer takes its connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as peer:
        port = str(peer.getsockname()[1])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "1", "LOCAL_RANK": "1"}
        numbers = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        process = start(f"data.path={corpus}", f"run.dir={tmp_path / 'run'}", **place, **numbers)
        peer.settimeout(120)
        peer.accept()
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1
    assert errors.endswith(f"banyan: ended by SIGUSR1 {LINE}")


def test_signals_raise_within_and_are_as_before_after():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="ended by SIGTERM") as raised, interruptible([signal.SIGTERM]):
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_the_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible([signal.SIGINT]):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(before, Raise)
