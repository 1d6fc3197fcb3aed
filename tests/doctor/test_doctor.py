"""banyan doctor on this machine, and what its checks make of readings that aren't well."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.doctor.readings import readings_of, station
from trainer.config.doctor import CHECKS
from trainer.doctor.check import Diagnosis, RankReading
from trainer.doctor.checks import (
    clocks,
    compute,
    copies,
    gpus,
    limits,
    local_disk,
    network,
    rehearsal,
    shared_disk,
    software,
)
from trainer.doctor.disk import Disk, use_disk
from trainer.doctor.hardware import all_reduce_figure, processor_peak
from trainer.doctor.outcome import Examined, bad_hosts
from trainer.doctor.stuck import find_stuck


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
    assert re.search(r"killed after step \d+ of 20, went on from step [48]\b", rehearsed["measured"][0])
    assert found["well"] == (done.returncode == 0) == done.stdout.endswith("well: nothing found\n")
    assert done.returncode in (0, 1), done.stderr
    assert os.listdir(tmp_path / "runs") == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["doctor.checks=[cmpute]"], "doctor.checks: cmpute is no check; choose of software"),
        (["doctor.checks=[]"], "nothing to look at"),
        (["doctor.folder=/proc/no", "doctor.checks=[shared_disk]"], "doctor.folder=/proc/no"),
        (["doctor.output=/proc/no/found.json", "doctor.checks=[limits]"], "doctor.output=/proc/no/found.json"),
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
    links = [{"device": "cpu", "bandwidth": [["all", "all-reduce", 2**20, 1.0]], "links": [1.0, 1.1]} for _ in range(4)]
    links[2] = links[2] | {"links": [0.1, 0.2]}
    [finding] = network.judge(readings_of(links), station()).findings
    assert finding.hosts == ("n3",)


def test_gpus_are_held_against_what_they_should_give():
    """Readings as CUDA's and NVML's: none of this has run on a GPU here."""
    well = {
        "name": "NVIDIA H100 80GB HBM3",
        "total": 80e9,
        "free": 79e9,
        "throttling": 4,
        "remapped_rows": [0, 0, 0, 0],
    }
    assert gpus.judge(readings_of([well] * 8), station()).findings == []
    bad = [well | {"throttling": 0x40}, well | {"ecc_errors": 2}, well | {"remapped_rows": [0, 1, 1, 0]}]
    bad += [well | {"free": 40e9}, well | {"lanes": 8, "most_lanes": 16}, well]
    assert [each.hosts for each in gpus.judge(readings_of(bad), station()).findings] == [
        *(("n4",), ("n1",), ("n2",), ("n3",), ("n5",)),
    ]
    slow = {"device": "NVIDIA H100 80GB HBM3", "to": 25.0, "from": 52.0}
    [finding] = copies.judge(readings_of([slow] * 2), station()).findings
    assert "slower than its bus" in finding.text
    host = [["all", "all-reduce", size, speed] for size, speed in ((2**20, 20.0), (2**28, 200.0))]
    readings = [{"device": "NVIDIA H100 80GB HBM3", "bandwidth": host}] * 8
    one_host = [RankReading(each.rank, "n1", each.values) for each in readings_of(readings)]
    diagnosis = network.judge(one_host, station())
    assert "look at NVLink" in diagnosis.findings[0].text
    assert diagnosis.measured == ["all-reduce, all ranks: 1 MiB 20 GB/s; 256 MiB 200 GB/s; should give 460 at last"]
    assert all_reduce_figure("NVIDIA H100 80GB HBM3", "across", 2, 8) == 380 / 8
    assert all_reduce_figure("NVIDIA H100 PCIe", "all", 2, 8) is None
    old = [{"cuda": "13.0", "driver": "550.54.15"}, {"cuda": "13.0", "driver": "580.65.06"}]
    assert any("needs 580" in each.text for each in software.judge(readings_of(old), station()).findings)


def test_what_a_processor_can_do_is_known_by_clock_and_instructions(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\ncpu MHz : 2500.0\nflags : fpu fma avx2\n")
    assert processor_peak(2, cpuinfo, tmp_path / "absent") == 2 * 32 * 2.5e9
    cpuinfo.write_text("processor : 0\nFeatures : asimd\n")
    assert processor_peak(2, cpuinfo, tmp_path / "absent") is None


def test_limits_that_are_too_low_are_named_once_for_each_host():
    well = {"files": 65536, "processes": 10**6, "locked": 2**53, "cores": 1, "infiniband": True, "shared": 10**9}
    assert limits.judge(readings_of([well] * 3), station()).findings == []
    bad = [well | {"files": 256}, well | {"processes": 512}, well | {"locked": 65536}, well | {"shared": 10**6}, well]
    assert [each.hosts for each in limits.judge(readings_of(bad), station()).findings] == [
        *(("n1",), ("n2",), ("n3",), ("n4",)),
    ]


def test_blame_is_on_hosts_only_where_others_are_well():
    diagnosis, readings = Diagnosis(), readings_of([{}, {}])
    diagnosis.blame([], "nothing")
    diagnosis.blame(readings, "all", among=readings)
    diagnosis.blame(readings[:1], "one", among=readings)
    assert [each.hosts for each in diagnosis.findings] == [(), ("n1",)]


def test_who_keeps_the_others_waiting_is_named():
    def found(finished, stuck):
        board = SimpleNamespace(told_by_all=lambda about: stuck if about.endswith("stuck") else finished)
        return [each.text for each in find_stuck("compute", 90.0, board, ["n1", "n2", "n3"])]

    waits = dict.fromkeys(range(3), "waits")
    assert "rank 2 (host n3) gives no sign of life" in found(dict.fromkeys(range(3)), waits | {2: None})[0]
    [text] = found(dict.fromkeys(range(3)), waits | {1: "elsewhere: use_disk (doctor/disk.py:40)"})
    assert text.startswith("rank 1 (host n2) is stuck in use_disk (doctor/disk.py:40)")
    assert found({0: None, 1: "OSError: no", 2: None}, waits) == ["rank 1 (host n2): OSError: no"]
    assert "all ranks wait for each other" in found(dict.fromkeys(range(3)), waits)[0]


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
