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
