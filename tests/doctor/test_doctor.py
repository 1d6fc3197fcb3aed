"""banyan doctor on this machine, and what its checks make of readings that aren't well."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.doctor.readings import readings_of, station
from trainer.config.doctor import CHECKS
from trainer.doctor.checks import clocks, compute, local_disk, network, rehearsal, shared_disk, software
from trainer.doctor.disk import Disk, use_disk
from trainer.doctor.examine import Examined, bad_hosts


def doctor(folder, *keys):
    command = [sys.executable, "-P", "-m", "launch", "doctor", *keys]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_two_ranks_are_examined_whole_and_a_kill_is_rehearsed(tmp_path):
    done = doctor(tmp_path, "launch.processes=2", "doctor.output=found.json", "doctor.seconds=0.2", "doctor.slow=0.05")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each["name"] for each in found["checks"]] == list(CHECKS)
    rehearsed = found["checks"][-1]
    assert rehearsed["findings"] == [], done.stdout
    assert "the same bits" in rehearsed["measured"][0]
    assert "went on from step 4" in rehearsed["measured"][0]
    assert found["well"] == (done.returncode == 0) == done.stdout.endswith("well: nothing found\n")
    assert done.returncode in (0, 1), done.stderr
    assert os.listdir(tmp_path / "runs") == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["doctor.checks=[cmpute]"], "doctor.checks: cmpute is no check; choose of software"),
        (["doctor.checks=[]"], "nothing to look at"),
        (["doctor.folder=/proc/no", "doctor.checks=[shared_disk]"], "doctor.folder=/proc/no"),
    ],
)
def test_a_wrong_command_is_no_finding(tmp_path, keys, said):
    done = doctor(tmp_path, *keys)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_slow_rank_is_named_and_noise_is_not():
    well = [{"device": "cpu", "tflops_0": 1.0 + n / 50, "tflops_1": 1.1, "tflops": 1.1} for n in range(4)]
    assert compute.judge(readings_of(well), station()).findings == []
    once = [*well[:3], {"device": "cpu", "tflops_0": 0.4, "tflops_1": 1.1, "tflops": 1.1}]
    assert compute.judge(readings_of(once), station()).findings == []
    slow = [*well[:3], {"device": "cpu", "tflops_0": 0.5, "tflops_1": 0.5, "tflops": 0.5}]
    [finding] = compute.judge(readings_of(slow), station()).findings
    assert finding.hosts == ("n4",)
    assert "rank 3 (host n4): 0.5 TFLOP/s, where others reach" in finding.text


def test_a_gpu_below_its_peak_is_said_although_all_are():
    low = [{"device": "NVIDIA H100 80GB HBM3", "tflops_0": 300.0, "tflops_1": 310.0, "tflops": 310.0}] * 8
    [finding] = compute.judge(readings_of(low), station()).findings
    assert "below 60% of the device's peak" in finding.text
    assert finding.hosts == ()


def test_a_clock_that_is_off_is_named_even_if_it_is_that_of_rank_0():
    def findings(*ahead):
        values = [{"ahead": each, "within": 0.001} for each in ahead]
        return clocks.judge(readings_of(values), station()).findings

    assert findings(0.0, 0.2, -0.3, 0.1) == []
    [finding] = findings(0.0, 0.1, -300.0, 0.2)
    assert finding.hosts == ("n3",)
    assert "behind" in finding.text
    [finding] = findings(0.0, 60.0, 60.1, 59.9)
    assert finding.hosts == ("n1",)


def test_disks(tmp_path):
    well = Disk("/tmp", 1.0, 2.0, 0.01, 10**12)
    full = Disk("/tmp", 1.0, 2.0, 0.01, 10**8)
    refused = Disk("/tmp", problem="the disk is full: free some space")
    values = [vars(each) for each in (well, full, refused)]
    one, two = local_disk.judge(readings_of(values), station()).findings
    assert {one.hosts, two.hosts} == {("n2",), ("n3",)}
    found = use_disk(tmp_path, 2**20, 0)
    assert found.problem is None
    assert found.write > 0
    assert os.listdir(tmp_path) == []
    assert "ENOENT" in use_disk(tmp_path / "absent", 2**20, 0).problem


def test_a_disk_that_is_not_shared_and_locks_that_do_not_hold():
    disk = vars(Disk("/shared", 1.0, 2.0, 0.01, 10**12))
    well = {"seen": 0.01, "kept_out": True, "disk": disk}
    first = well | {"problem": None, "lock_problem": None}
    assert shared_disk.judge(readings_of([first, well]), station()).findings == []
    [finding] = shared_disk.judge(readings_of([first, well, {"seen": None}]), station()).findings
    assert finding.hosts == ("n3",)
    [finding] = shared_disk.judge(readings_of([first, well, well | {"kept_out": False}]), station()).findings
    assert "locks don't hold" in finding.text
    assert finding.hosts == ("n3",)


def test_versions_that_differ_and_links():
    values = [{"torch": "2.13"}, {"torch": "2.13"}, {"torch": "2.12"}]
    [finding] = software.judge(readings_of(values), station()).findings
    assert finding.hosts == ("n3",)
    links = [{"device": "cpu", "all_all_reduce_1": 1.0, "links": [1.0, 1.1]} for _ in range(4)]
    links[2] = links[2] | {"links": [0.1, 0.2]}
    [finding] = network.judge(readings_of(links), station()).findings
    assert finding.hosts == ("n3",)


def test_a_run_that_is_not_the_same_is_said_with_its_step():
    course = [[step, 5.0 - step, 1.0] for step in range(1, 13)]
    calm = {"course": course, "weights": "a"}
    other = {"course": [*course[:8], *([step, 9.0, 1.0] for step in range(9, 13))], "weights": "b"}
    told = {"killed_at": 6, "resumed": 4, "seconds": {"whole": 1.0, "killed": 1.0, "on": 1.0}}
    place = SimpleNamespace(mesh=SimpleNamespace(world_size=2), config=station().config)
    assert rehearsal.judge(readings_of([told | {"calm": calm, "killed": calm}]), place).findings == []
    [finding] = rehearsal.judge(readings_of([told | {"calm": calm, "killed": other}]), place).findings
    assert "from step 9 on" in finding.text
    [finding] = rehearsal.judge(readings_of([told | {"calm": calm, "killed": calm, "resumed": None}]), place).findings


def test_hosts_to_leave_out():
    one = local_disk.judge(readings_of([vars(Disk("/tmp", problem="full")), vars(Disk("/tmp", free=1))]), station())
    assert bad_hosts([Examined("local_disk", 1.0, [], one.findings)]) == ["n1", "n2"]
