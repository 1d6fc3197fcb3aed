"""banyan doctor on a real SLURM: well nodes are called well, and each planted fault is found on its node alone."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.slurm.faults import (
    FEW_FILES,
    another_time,
    held_up,
    left_of_doctor,
    on_one_node,
    small_disk,
)
from tests.cluster.slurm.jobs import ROOT, write_setup

# Ranks that share two busy cores with whatever else runs there: only far slower ones are to be called slow.
NOISY = ["doctor.slow=0.15", "doctor.seconds=2"]
SLOW = ["doctor.slow=0.4", "doctor.seconds=4"]


def command(folder, *keys, nodes=3):
    shared = [f"doctor.folder={folder / 'shared'}", f"doctor.output={folder / 'found.json'}"]
    place = ["launch=slurm", f"launch.nodes={nodes}", "launch.cpus_per_task=1", "launch.threads=1"]
    return [sys.executable, "-P", "-m", "launch", "doctor", *place, *shared, *keys]


def variables(folder, **more):
    return {"PYTHONPATH": str(ROOT), "BANYAN_SETUP": str(write_setup(folder)), "OMP_NUM_THREADS": "1", **more}


def doctor(cluster, folder, *keys, before=(), nodes=3, **more):
    """What `banyan doctor launch=slurm` ended with and printed on the login node, and its JSON."""
    done = cluster.run(
        [*before, *command(folder, *keys, nodes=nodes)],
        folder=folder,
        environment=variables(folder, **more),
        timeout_s=400,
        check=False,
    )
    file = folder / "found.json"
    return done, json.loads(file.read_text()) if file.exists() else None


def findings(found):
    return [finding["text"] for check in found["checks"] for finding in check["findings"]]


def assert_named(done, found, node, said):
    """One node is to blame, by people's and machines' output, and nothing else is found."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert found["exclude"] == [node], found
    assert found["well"] is False
    assert f"Leave out: --exclude={node}\n" in done.stdout + done.stderr
    [text] = findings(found)
    assert said in text
    assert f"(host {node})" in text
    assert text in done.stdout


def test_a_full_disk_is_named_by_the_job_that_was_waited_for(isolated_cluster, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with small_disk(isolated_cluster, "n2", scratch):
        done, found = doctor(
            isolated_cluster,
            tmp_path,
            "doctor.checks=[local_disk]",
            "doctor.least_free=0",
            TMPDIR=str(scratch),
            nodes=2,
        )
    assert_named(done, found, "n2", "the disk is full")
    assert left_of_doctor(tmp_path / "shared") == []


@pytest.mark.full
def test_well_nodes_are_called_well_within_two_minutes(cluster, tmp_path):
    began = time.monotonic()
    done, found = doctor(cluster, tmp_path, *NOISY, "doctor.least_free=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["exclude"] == []
    assert found["well"] is True
    assert (found["ranks"], found["hosts"]) == (3, 3 if cluster.isolated else 1)
    assert "well: nothing found" in done.stdout
    assert "the same bits" in found["checks"][-1]["measured"][0]
    print(f"whole: {time.monotonic() - began:.0f} s; checks: {sum(each['seconds'] for each in found['checks']):.0f} s")
    assert left_of_doctor(tmp_path / "shared") == []


@pytest.mark.full
@pytest.mark.parametrize("node", ["n1", "n2"])  # with rank 0, and without
def test_a_slow_node_is_named(cluster, tmp_path, node):
    run = on_one_node(tmp_path, node, held_up(tmp_path / "shared"))
    done, found = doctor(cluster, tmp_path, *SLOW, "doctor.checks=[limits,compute]", BANYAN_RUN=str(run))
    assert_named(done, found, node, "TFLOP/s, where others reach")
    assert "with its processors for" in findings(found)[0]


@pytest.mark.full
@pytest.mark.parametrize(("node", "seconds"), [("n3", 300), ("n1", -40)])
def test_a_clock_that_is_off_is_named(cluster, tmp_path, node, seconds):
    settings = " ".join(f"{name}={value}" for name, value in another_time(tmp_path, seconds).items())
    run = on_one_node(tmp_path, node, f"exec env {settings}")
    done, found = doctor(cluster, tmp_path, "doctor.checks=[clocks,names]", BANYAN_RUN=str(run))
    assert_named(done, found, node, "s ahead of" if seconds > 0 else "s behind")
    assert f"clock is {abs(seconds)}.0 s" in findings(found)[0]


@pytest.mark.full
def test_a_nearly_full_disk_a_small_dev_shm_and_few_files_are_named(isolated_cluster, tmp_path):
    cluster, scratch = isolated_cluster, tmp_path / "scratch"
    scratch.mkdir()
    checks = "doctor.checks=[limits,local_disk]"
    with small_disk(cluster, "n3", scratch, "100m"):
        done, found = doctor(cluster, tmp_path, checks, "doctor.least_free=0.2", TMPDIR=str(scratch))
    assert_named(done, found, "n3", "is nearly full (less than 0.2 GB free)")
    with small_disk(cluster, "n2", Path("/dev/shm"), "1m"):
        done, found = doctor(cluster, tmp_path, checks, "doctor.least_free=0")
    assert_named(done, found, "n2", "of /dev/shm free")
    run = on_one_node(tmp_path, "n2", FEW_FILES)
    done, found = doctor(cluster, tmp_path, checks, "doctor.least_free=0", BANYAN_RUN=str(run))
    assert_named(done, found, "n2", "fewer than 1,024 open files: raise ulimit -n")


@pytest.mark.full
def test_a_shared_disk_that_is_not_mounted_everywhere_is_named(isolated_cluster, tmp_path):
    (tmp_path / "shared").mkdir()
    with small_disk(isolated_cluster, "n2", tmp_path / "shared", "100m"):
        done, found = doctor(isolated_cluster, tmp_path, "doctor.checks=[shared_disk]", "doctor.least_free=0")
    assert_named(done, found, "n2", "isn't the disk that rank 0 writes to")


@pytest.mark.full
def test_several_faults_at_once_are_each_on_their_node(isolated_cluster, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = on_one_node(tmp_path, "n3", f"ulimit -n 256; {held_up(tmp_path / 'shared')}")
    with small_disk(isolated_cluster, "n2", scratch):
        checks = "doctor.checks=[limits,compute,local_disk]"
        more = {"TMPDIR": str(scratch), "BANYAN_RUN": str(run)}
        done, found = doctor(isolated_cluster, tmp_path, *SLOW, checks, "doctor.least_free=0", **more)
    assert done.returncode == 1
    assert sorted(found["exclude"]) == ["n2", "n3"]
    assert [len(check["findings"]) for check in found["checks"]] == [1, 1, 1], findings(found)
    assert "--exclude=n3,n2" in done.stdout + done.stderr


@pytest.mark.full
def test_a_rank_that_never_comes_is_named_with_its_node(cluster, tmp_path):
    run = on_one_node(tmp_path, "n2", "exec sleep 600; :")
    done, found = doctor(cluster, tmp_path, "doctor.timeout_s=40", BANYAN_RUN=str(run))
    assert done.returncode == 1, done.stdout + done.stderr
    assert found["exclude"] == ["n2"]
    assert "1 of 3 ranks never came: 1 (on n2)" in findings(found)[0]
    assert "--exclude=n2" in done.stdout + done.stderr


@pytest.mark.full
def test_a_rank_that_stops_in_a_check_is_named(cluster, tmp_path):
    """In the middle of compute, for which there is time enough."""
    keys = ["doctor.checks=[limits,compute]", "doctor.seconds=30", "doctor.timeout_s=40", "doctor.slow=0.01"]
    with started(cluster, tmp_path, *keys) as running:
        job = wait_for_check(cluster, running, "limits")
        for pid in cluster.pids_on("n3", job, rank=2):
            signal_process(pid, signal.SIGSTOP)
        assert running.wait(timeout=200) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["exclude"] == ["n3"]
    assert "rank 2 (host n3) gives no sign of life" in findings(found)[0]
    cluster.clean_up()
    assert left_of_doctor(tmp_path / "shared") == []


@pytest.mark.full
def test_an_allocation_of_ones_own_is_examined_in_place(cluster, tmp_path):
    done, found = doctor(
        cluster,
        tmp_path,
        "doctor.checks=[limits,names]",
        before=["salloc", "--quiet", "--nodes=2", "--cpus-per-task=1"],
        nodes=1,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["hosts"] == (2 if cluster.isolated else 1)
    assert "submitted" not in done.stdout


@pytest.mark.full
def test_wrong_commands_and_interruption(cluster, tmp_path):
    done, _ = doctor(cluster, tmp_path, "doctor.checks=[cmpute]")
    assert done.returncode == 2
    done, _ = doctor(cluster, tmp_path, nodes=9)
    assert done.returncode == 2
    assert "Node count specification invalid" in done.stderr
    done, _ = doctor(cluster, tmp_path, "doctor.folder=/proc/no", "doctor.checks=[limits]")
    assert done.returncode == 2, done.stdout + done.stderr
    with started(cluster, tmp_path) as running:
        job = wait_for_check(cluster, running, "limits")
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130
    assert cluster.wait(job)["JobState"] == "CANCELLED"
    cluster.clean_up()
    cluster.wait_for(lambda: left_of_doctor(tmp_path / "shared") == [], "an end of everything", 60)


@contextlib.contextmanager
def started(cluster, folder, *keys):
    """`banyan doctor launch=slurm` on the login node."""
    with (folder / "printed").open("wb") as file:
        line = cluster.inside(command(folder, *keys), folder)
        environment = cluster.environment | variables(folder)
        with subprocess.Popen(line, env=environment, stdout=file, stderr=subprocess.STDOUT) as running:
            running.printed = folder / "printed"
            try:
                yield running
            finally:
                running.kill()


def wait_for_check(cluster, running, check):
    """The job's number, once a check's outcome is printed."""

    def printed():
        assert running.poll() is None, running.printed.read_text()
        return running.printed.read_text()

    cluster.wait_for(lambda: f" {check} " in printed(), check, 200)
    return printed().split("job ")[1].split()[0]


def signal_process(pid, number):
    """Of a process that may have ended."""
    import os

    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
