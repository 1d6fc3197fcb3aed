"""A node that breaks every start is left out: by a spare one of the job, else by a job without it."""

import json
import re
import signal

import pytest

from tests.cluster.slurm.jobs import ON_CPUS, Job, arguments, banyan, calm_run, course, settings, submit_pretrain
from tests.cluster.slurm.test_jobs import SMALL, pretend

BROKEN = '[[ $SLURMD_NODENAME != n2 ]] || kill -9 $$\nsleep 1\necho "fine on $SLURMD_NODENAME at $MASTER_ADDR"'


def submit(cluster, folder, nodes, *overrides):
    options = [f"--nodes={nodes}", *ON_CPUS]
    return submit_pretrain(
        cluster, folder, options, [*SMALL[:2], f"run.dir={folder}/run", *overrides], export=pretend(folder, BROKEN)
    )


def blamed(run_dir):
    return [one["node"] for one in json.loads((run_dir / "nodes.json").read_text())["blames"]]


def test_a_spare_node_takes_the_place_of_a_broken_one(cluster, tmp_path):
    job = submit(cluster, tmp_path, 3, "launch.nodes=2", "launch.spares=1")
    assert job.wait_for_end() == "COMPLETED", job.log
    assert "2 ranks on n1,n2" in job.log
    assert "put down to n2" in job.log
    assert "2 ranks on n1,n3" in job.log
    assert sorted(line.split()[2] for line in job.log.splitlines() if line.startswith("fine")) == ["n1", "n3"]
    assert blamed(job.run_dir) == ["n2"]
    assert job.state()["Restarts"] == "0"


def test_rank_0_goes_to_another_node_where_its_own_is_broken(cluster, tmp_path):
    body = BROKEN.replace("n2", "n1")
    options = ["--nodes=3", *ON_CPUS]
    overrides = [*SMALL[:2], f"run.dir={tmp_path}/run", "launch.spares=1"]
    job = submit_pretrain(cluster, tmp_path, options, overrides, export=pretend(tmp_path, body))
    assert job.wait_for_end() == "COMPLETED", job.log
    address = cluster.run(["scontrol", "-o", "show", "node", "n2"]).stdout.split("NodeAddr=")[1].split()[0]
    assert job.log.count(f"at {address}") == 2, job.log


def test_without_a_spare_a_node_blamed_twice_is_excluded_by_the_job_that_goes_on(cluster, tmp_path):
    job = submit(cluster, tmp_path, 2)
    assert job.wait_for_end() == "FAILED"
    assert job.state()["ExitCode"] == "85:0", job.log
    number = re.search(r"job (\d+) goes on, without n2", job.log)[1]
    later = Job(cluster, number, job.run_dir, job.log_file)
    assert later.wait_for_end() == "COMPLETED", job.log
    state = later.state()
    assert (state["ExcNodeList"], state["NodeList"]) == ("n2", "n[1,3]")
    assert state["JobName"] == job.state()["JobName"]
    assert blamed(job.run_dir) == ["n2", "n2"]
    assert "2 ranks on n1,n3" in later.log


def test_the_next_job_of_a_run_is_submitted_without_what_was_blamed(cluster, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "doctor.json").write_text(json.dumps({"exclude": ["n3"]}))
    done = banyan(cluster, tmp_path, *SMALL[:2], f"run.dir={run_dir}", "launch.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --exclude=n3\n" in done.stdout
    assert done.stdout.startswith("#!"), "the script stands by itself"


@pytest.mark.full
def test_a_node_that_the_watchdog_names_is_left_out_and_losses_stay_those_of_a_calm_run(cluster, corpus, tmp_path):
    keys = {**settings(corpus, 60, every=20), "health.hang_timeout_s": 15}
    calm = course(calm_run(keys, tmp_path / "calm"))
    overrides = arguments(keys, tmp_path / "run", "launch.nodes=2", "launch.spares=1")
    job = submit_pretrain(cluster, tmp_path, ["--nodes=3", *ON_CPUS], overrides)
    job.wait_for_step(25)
    job.signal_ranks(signal.SIGSTOP, rank=1)
    assert job.wait_for_end() == "COMPLETED", job.log
    assert "put down to n2" in job.log
    assert "2 ranks on n1,n3" in job.log
    assert course(job.run_dir) == calm, job.log
