"""Which cores a rank is bound to."""

import os
import subprocess
import sys

from launch.cores import by_physical_core, parse_list, share


def shares(allowed, beside, ranks):
    return [share(allowed, beside, rank, ranks) for rank in range(ranks)]


def test_ranks_get_the_cores_beside_their_gpus():
    sockets = [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert shares(range(8), [sockets[1], sockets[1], sockets[0], sockets[0]], 4) == [{4, 5}, {6, 7}, {0, 1}, {2, 3}]


def test_without_knowing_the_gpus_all_cores_are_shared_out():
    assert shares(range(8), [], 2) == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert shares([0, 1, 2], [], 2) == [{0}, {1, 2}]


def test_cores_that_the_job_has_not_are_never_taken():
    assert shares([2, 3], [{0, 1}, {2, 3}], 2) == [{2}, {3}]
    assert shares([1, 2], [{0, 1}, {2, 3}], 2) == [{1}, {2}]


def test_more_ranks_than_cores_share_them():
    assert shares([5, 6], [], 3) == [{5}, {6}, {5}]


def test_hardware_threads_of_a_core_stay_together(tmp_path, monkeypatch):
    for core in range(4):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 2},{core % 2 + 2}\n")
    monkeypatch.setattr("launch.cores.CPUS", tmp_path)
    assert by_physical_core({0, 1, 2, 3}) == [0, 2, 1, 3]


def test_lists_of_the_kernel():
    assert parse_list("0-3,8,10-11\n") == {0, 1, 2, 3, 8, 10, 11}
    assert parse_list("\n") == set()


def test_a_process_is_bound_to_its_share():
    program = "import os\nfrom launch.cores import bind\nprint(sorted(bind(0, 2)) == sorted(os.sched_getaffinity(0)))\n"
    bound = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    assert bound.stdout == "True\n"


def test_ranks_are_bound_where_each_has_a_gpu_of_this_node_and_else_left_alone(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 00000000:3B:00.0\necho 00000000:5E:00.0\n")
    tool.chmod(0o755)
    program = "import os\nfrom launch.launchers import LAUNCHERS\n"
    program += "print([LAUNCHERS[name].on_rank() for name in ('local', 'ray')], len(os.sched_getaffinity(0)))\n"
    cores = len(os.sched_getaffinity(0))
    for ranks, expected in ((2, f"[1, 1] {max(1, cores // 2)}"), (3, f"[3, 3] {cores}"), (1, f"[1, 1] {cores}")):
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": str(ranks),
        }
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
        if ranks == 2:  # bound twice, each time to half of what was left
            expected = f"[1, 1] {max(1, max(1, cores // 2) // 2)}"
        assert done.stdout.strip() == expected
