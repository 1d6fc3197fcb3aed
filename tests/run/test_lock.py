"""The lock of a run directory."""

import dataclasses
import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from trainer.errors import ConfigError, InputError
from trainer.machine.durable import write_json
from trainer.run import lock
from trainer.run.lock import Holder, RunLock


def leave_lock(run_dir, *, seconds_ago=0.0, **changes):
    """The lock of another holder, last touched so long ago."""
    path = run_dir / "lock"
    write_json(path, {**dataclasses.asdict(Holder.myself()), **changes})
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 0.3)
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(lock, "CONTEST_S", 0.05)


def test_lock_is_held_within_and_gone_after(tmp_path):
    with RunLock() as mine:
        mine.take(tmp_path, 60)
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* wait for its end"), RunLock() as other:
            other.take(tmp_path, 60)
        assert (tmp_path / "lock").is_file()
    assert not (tmp_path / "lock").exists()


def test_dead_process_of_this_machine_loses_it_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 60)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave_lock(tmp_path, pid=dead.pid)
    began = time.monotonic()
    with RunLock() as mine:
        mine.take(tmp_path, 60)
    assert time.monotonic() - began < 20


def test_process_of_this_machine_that_is_about_to_end_is_waited_for(tmp_path):
    ending = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    leave_lock(tmp_path, pid=ending.pid)
    threading.Timer(0.1, ending.kill).start()
    with RunLock() as mine:
        mine.take(tmp_path, 60)
    ending.communicate()


def test_live_holder_on_another_host_is_refused_as_soon_as_it_is_heard_of(tmp_path):
    path = leave_lock(tmp_path, host="n7", machine="another", pid=7, seconds_ago=50)
    threading.Timer(0.2, os.utime, [path]).start()
    began = time.monotonic()
    with pytest.raises(ConfigError, match="process 7 on n7"), RunLock() as mine:
        mine.take(tmp_path, 60)
    assert time.monotonic() - began < 5
    assert path.exists()


@pytest.mark.parametrize("seconds_ago", [3600, 59.7])
def test_silent_holder_on_another_host_loses_it_after_the_limit(tmp_path, seconds_ago):
    leave_lock(tmp_path, host="n7", machine="another", seconds_ago=seconds_ago)
    with RunLock() as mine:
        mine.take(tmp_path, 60)


def test_unreadable_lock_is_taken_over_after_the_limit(tmp_path):
    (tmp_path / "lock").write_text("{")
    os.utime(tmp_path / "lock", (0, 0))
    with RunLock() as mine:
        mine.take(tmp_path, 60)


def test_heartbeat_keeps_others_from_taking_it(tmp_path):
    with RunLock() as mine:
        mine.take(tmp_path, 60)
        os.utime(tmp_path / "lock", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "lock").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_run_that_was_taken_for_dead_ends_when_it_finds_out(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from trainer.run import lock; lock.HEARTBEAT_S = 0.1\n"
        "mine = lock.RunLock(); mine.take(Path(sys.argv[1]), 60); print('ready', flush=True); time.sleep(60)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "ready\n"
    leave_lock(tmp_path, host="n7")
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 1
    assert "on n7 took it" in errors
    assert (tmp_path / "lock").exists()


def test_a_lock_from_the_future_is_waited_for_no_longer_than_the_limit(tmp_path):
    leave_lock(tmp_path, host="n7", machine="another", seconds_ago=-3600)
    began = time.monotonic()
    with RunLock() as mine:
        mine.take(tmp_path, 0.5)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("pid", [-1, 0, 1 << 40, "7", None, True, 1.5])
def test_a_pid_that_no_process_can_have_is_an_unknown_holder(tmp_path, pid):
    leave_lock(tmp_path, pid=pid, seconds_ago=100)
    with RunLock() as mine:
        mine.take(tmp_path, 60)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"{}", b"", b'{"a": 1}', b" " * (1 << 26)])
def test_a_lock_of_any_content_is_read_within_bounds_and_taken_over_after_the_limit(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)
    os.utime(tmp_path / "lock", (0, 0))
    with RunLock() as mine:
        mine.take(tmp_path, 60)


def make_link(path):
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, make_link])
def test_what_no_run_has_made_is_refused_in_a_line(tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(InputError, match=r"/lock.* remove it\."), RunLock() as mine:
        mine.take(tmp_path, 60)
    assert os.path.lexists(tmp_path / "lock")


def test_terminal_escapes_in_a_lock_are_not_printed(tmp_path, capsys):
    leave_lock(tmp_path, host="n7\x1b[2J", machine="another", seconds_ago=-3600)
    with RunLock() as mine:
        mine.take(tmp_path, 0.2)
    assert "\x1b" not in capsys.readouterr().out


def test_whoever_keeps_the_folder_locked_is_not_waited_for_for_ever(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConfigError, match="keeps the folder itself locked"), RunLock() as mine:
            mine.take(tmp_path, 60)
    finally:
        os.close(descriptor)
