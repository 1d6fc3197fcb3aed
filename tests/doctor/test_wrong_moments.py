"""banyan doctor when something happens to itself: it is killed, a rank doesn't come, a port or the network is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tests.cluster.slurm.faults import left_of_doctor

KEYS = ["launch.threads=1", "doctor.folder=shared", "doctor.output=found.json"]


def started(folder, *keys, **variables):
    """`banyan doctor` that runs in `folder`, its output in doctor.log there."""
    command = [sys.executable, "-P", "-m", "launch", "doctor", *KEYS, *keys]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | variables
    with (folder / "doctor.log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def wait_until(ready, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def printed(folder):
    return (folder / "doctor.log").read_text()


def test_a_rank_that_never_comes_is_said_in_time(tmp_path):
    running = started(tmp_path, "launch.processes=2", "doctor.timeout_s=12")
    wait_until(lambda: len(psutil.Process(running.pid).children()) == 2)
    ranks = psutil.Process(running.pid).children()
    [second] = [rank for rank in ranks if rank.environ()["RANK"] == "1"]
    second.suspend()
    assert running.wait(120) == 1, printed(tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert "1 of 2 ranks never came: 1" in found["checks"][0]["findings"][0]["text"]
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)


@pytest.mark.full
@pytest.mark.parametrize("processes", [1, 2])
def test_a_doctor_killed_in_mid_rehearsal_leaves_nothing(tmp_path, processes):
    running = started(tmp_path, f"launch.processes={processes}", "doctor.checks=[limits,rehearsal]")
    shared = tmp_path / "shared"
    wait_until(lambda: [*shared.glob("doctor-*/calm/metrics.jsonl")])
    assert left_of_doctor(shared)
    running.kill()
    running.wait()
    wait_until(lambda: left_of_doctor(shared) == [], 30)


@pytest.mark.full
def test_a_rank_killed_in_mid_rehearsal_is_something_found(tmp_path):
    running = started(tmp_path, "launch.processes=2", "doctor.checks=[limits,rehearsal]")
    wait_until(lambda: [*(tmp_path / "shared").glob("doctor-*/calm/metrics.jsonl")])
    psutil.Process(running.pid).children()[1].kill()
    assert running.wait(60) == 1, printed(tmp_path)
    assert "was killed by SIGKILL" in printed(tmp_path)
    wait_until(lambda: left_of_doctor(tmp_path / "shared") == [], 30)


@pytest.mark.full
def test_a_rank_that_stops_in_a_check_is_named(tmp_path):
    keys = ["doctor.checks=[limits,compute]", "doctor.seconds=20", "doctor.timeout_s=25"]
    running = started(tmp_path, "launch.processes=2", *keys)
    wait_until(lambda: " limits " in printed(tmp_path))
    [second] = [rank for rank in psutil.Process(running.pid).children() if rank.environ()["RANK"] == "1"]
    second.suspend()
    assert running.wait(120) == 1, printed(tmp_path)
    assert f"rank 1 (host {os.uname().nodename}) gives no sign of life" in printed(tmp_path)
    wait_until(lambda: left_of_doctor(tmp_path / "shared") == [], 30)


@pytest.mark.full
def test_interruption_leaves_nothing(tmp_path):
    running = started(tmp_path, "launch.processes=2", "doctor.checks=[limits,rehearsal]")
    wait_until(lambda: [*(tmp_path / "shared").glob("doctor-*/calm/metrics.jsonl")])
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130, printed(tmp_path)
    wait_until(lambda: left_of_doctor(tmp_path / "shared") == [], 30)


@pytest.mark.full
def test_a_port_that_is_taken_is_said_in_a_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
        running = started(tmp_path, **place, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        assert running.wait(60) == 2
    assert f"MASTER_PORT={port}: another process listens there" in printed(tmp_path)
    assert "Traceback" not in printed(tmp_path)


@pytest.mark.full
def test_without_a_network_only_what_needs_one_is_found(tmp_path):
    """The loopback is up, as on a node whose cable is out; W&B and the object store are asked for."""
    if subprocess.run(
        ["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no namespaces here")
    keys = [*KEYS, "doctor.checks=[names,network,services]", "launch.processes=2", "track.wandb.mode=online"]
    doctor = f"{sys.executable} -P -m launch doctor {' '.join(keys)} checkpoint.dir=s3://nowhere/runs"
    variables = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_MODE": "online",
    }
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f"ip link set lo up && exec {doctor}"],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = {each["name"]: each["findings"] for each in json.loads((tmp_path / "found.json").read_text())["checks"]}
    assert [len(found[name]) for name in ("names", "network", "services")] == [0, 0, 2], found
    assert "W&B at" in found["services"][0]["text"]
    assert "s3://nowhere/runs" in found["services"][1]["text"]
