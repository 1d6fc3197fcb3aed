"""banyan doctor on a Ray cluster: well nodes are called well, and each planted fault is found on its node alone."""

import contextlib
import json
import signal
import subprocess
import threading
import time

import psutil
import pytest

from tests.cluster.ray.daemons import Daemons
from tests.cluster.slurm.conftest import give_up
from tests.cluster.slurm.faults import another_time, left_of_doctor

# Ranks that share two busy cores with whatever else runs there: only far slower ones are to be called slow.
NOISY = ["doctor.slow=0.15", "doctor.seconds=2"]
HEAD, WELL, BAD = 1, 2, 3  # the last part of their addresses
PLACE = f"127.0.1.{BAD}"


@pytest.fixture(scope="module")
def daemons():
    """A head and a node, with a CPU each: a rank has room on each, and on a third that a test adds."""
    pytest.importorskip("ray")
    started = Daemons(cpus=1)
    started.add_node(WELL, cpus=1)
    yield started
    started.stop()


@contextlib.contextmanager
def bad_node(daemons, **variables):
    """The third node; `variables` are those of its environment."""
    node = daemons.add_node(BAD, cpus=1, env_vars=variables)
    try:
        yield
    finally:
        daemons.kill_node(node)


def doctor(daemons, folder, *keys, workers=3):
    keys = ["launch=ray", f"launch.workers={workers}", f"doctor.folder={folder / 'shared'}", *keys]
    driver = daemons.banyan("doctor", *keys, f"doctor.output={folder / 'found.json'}", log=folder / "driver.log")
    code = driver.wait(400)
    file = folder / "found.json"
    return code, json.loads(file.read_text()) if file.exists() else None, driver.output()


def assert_named(outcome, said):
    code, found, output = outcome
    assert code == 1, output
    assert found["exclude"] == [PLACE], output
    [text] = [finding["text"] for check in found["checks"] for finding in check["findings"]]
    assert said in text
    assert f"(host {PLACE})" in text
    assert f"--exclude={PLACE}" in output


@pytest.mark.full
def test_well_nodes_are_called_well(daemons, tmp_path):
    code, found, output = doctor(daemons, tmp_path, *NOISY, "doctor.least_free=0", workers=2)
    assert code == 0, output
    assert (found["well"], found["exclude"], found["hosts"]) == (True, [], 2)
    assert "the same bits" in found["checks"][-1]["measured"][0]
    assert "well: nothing found" in output
    print(f"checks: {sum(each['seconds'] for each in found['checks']):.0f} s")
    assert left_of_doctor(tmp_path / "shared") == []


@contextlib.contextmanager
def held_up(shared):
    """Rank processes of the bad node get a twentieth of the time, once a doctor works in `shared`."""
    ended = threading.Event()

    def hold():
        while not ended.wait(0.1) and not [*shared.glob("doctor-*")]:
            pass
        ranks = [rank for rank in psutil.process_iter() if is_rank_of_bad_node(rank)]
        while not ended.wait(0.01):
            for number, seconds in ((signal.SIGSTOP, 0.19), (signal.SIGCONT, 0)):
                for rank in ranks:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        rank.send_signal(number)
                time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_rank_of_bad_node(process):
    with contextlib.suppress(psutil.Error):
        return process.environ().get("BANYAN_NODE") == PLACE and "doctor" in process.cmdline()
    return False


@pytest.mark.full
def test_a_slow_node_is_named(daemons, tmp_path):
    with bad_node(daemons), held_up(tmp_path / "shared"):
        keys = ["doctor.slow=0.4", "doctor.seconds=4", "doctor.checks=[compute]"]
        assert_named(doctor(daemons, tmp_path, *keys), "where others reach")


@pytest.mark.full
def test_a_full_disk_is_named(daemons, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", scratch], check=False).returncode:
        give_up("nothing can be mounted here: run as root with CAP_SYS_ADMIN")
    try:
        with bad_node(daemons, TMPDIR=str(scratch)):
            assert_named(
                doctor(daemons, tmp_path, "doctor.checks=[local_disk]", "doctor.least_free=0"), "the disk is full"
            )
    finally:
        subprocess.run(["umount", scratch], check=True)


@pytest.mark.full
def test_a_clock_that_is_off_is_named(daemons, tmp_path, monkeypatch):
    clock = another_time(tmp_path, 300)
    # Ray has a library of its own before all others, which this one takes the place of, and spares workers it.
    monkeypatch.setenv("RAY_JEMALLOC_LIB_PATH", clock["LD_PRELOAD"])
    monkeypatch.setenv("RAY_LD_PRELOAD_ON_WORKERS", "1")
    with bad_node(daemons, CLOCK_AHEAD=clock["CLOCK_AHEAD"]):
        assert_named(doctor(daemons, tmp_path, "doctor.checks=[clocks]"), "ahead of the others'")


@pytest.mark.full
def test_a_wrong_command_is_no_finding(daemons, tmp_path):
    code, _, output = doctor(daemons, tmp_path, "doctor.checks=[cmpute]", workers=2)
    assert (code, "cmpute is no check" in output) == (2, True), output
