"""What `banyan status` and `banyan logs` say of a run on a Ray cluster, from its wait for room to its end."""

import json
import re

import psutil
import pytest

from tests.cluster.ray.daemons import ENDLESS, SMALL_RUN, ranks_of, wait_until
from tests.cluster.ray.test_jobs import steps_logged, submit
from trainer.run.status import read_status
from trainer.verbs import logs, status

PRETRAIN = ["pretrain", "launch=ray", *SMALL_RUN, *ENDLESS]


@pytest.mark.full
def test_a_run_is_followed_from_its_wait_for_room_to_its_end(daemons, corpus, tmp_path, capsys):
    first, run_dir = tmp_path / "first", tmp_path / "run"
    common = [*PRETRAIN, "train.batch_size=6", f"data.path={corpus}", "launch.start_timeout_s=5"]
    one = daemons.banyan(*common, "launch.workers=3", f"run.dir={first}", log=tmp_path / "one.log")
    one.wait_until(lambda: steps_logged(first) > 2)
    wait_until(lambda: read_status(first).state in ("training", "saving"), 60)  # by its next heartbeat
    assert read_status(first).launcher == "ray"
    arguments = [*common, "launch.workers=3", f"run.dir={run_dir}"]
    assert submit(daemons, tmp_path / "followed", *arguments, wait=False).returncode == 0
    wait_until(lambda: run_dir.exists() and read_status(run_dir).state == "queued", 120)
    waits = "job followed waits for room: 3 × (1 CPU on one node) are needed, 1 CPU are free"
    assert read_status(run_dir).reason == waits
    assert status.main([str(tmp_path)]) == 0
    assert "queued" in capsys.readouterr().out

    one.process.terminate()
    assert one.wait() == 85
    assert read_status(first).state == "stopped"
    wait_until(lambda: run_dir.exists() and steps_logged(run_dir) > 20, 240)
    found = read_status(run_dir)
    assert (found.launcher, found.job, found.ranks) == ("ray", "followed", 3)
    assert (found.lives, found.pid) == (True, ranks_of(run_dir)[0].pid)
    assert found.seconds_left > 0
    reached = steps_logged(run_dir)
    ranks = ranks_of(run_dir)
    ranks[1].kill()
    psutil.wait_procs(ranks, timeout=60)
    wait_until(lambda: read_status(run_dir).starts == 2, 240)
    wait_until(lambda: steps_logged(run_dir) > reached, 240)
    daemons.job("stop", "followed")
    wait_until(lambda: not read_status(run_dir).lives, 60)
    assert status.main([str(run_dir), "format=json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["state"], told["reason"]) == ("stopped", "stopped: signal")
    # of two ranks, one killed and one that lost its peer, Ray tells of the first that it hears of
    assert re.match(r"rank [01] ", told["restarts"][0]["reason"]), told["restarts"]
    assert logs.main([str(run_dir), "lines=1000"]) == 0
    assert "stopped (signal) after step" in capsys.readouterr().out


@pytest.mark.full
def test_a_driver_that_is_killed_while_it_waits_waits_no_longer(daemons, corpus, tmp_path):
    arguments = [*PRETRAIN, "train.batch_size=6", "launch.workers=3", f"data.path={corpus}"]
    first, second = tmp_path / "first", tmp_path / "second"
    one = daemons.banyan(*arguments, f"run.dir={first}", log=tmp_path / "one.log")
    one.wait_until(lambda: steps_logged(first) > 2)
    two = daemons.banyan(*arguments, "launch.start_timeout_s=1", f"run.dir={second}", log=tmp_path / "two.log")
    two.wait_until(lambda: second.exists() and read_status(second).state == "queued")
    two.process.kill()
    two.process.wait()
    assert read_status(second).state == "unknown"
    assert "none is in the queue" in read_status(second).reason
    one.process.kill()
    one.wait()
    wait_until(lambda: not ranks_of(first), 60)
