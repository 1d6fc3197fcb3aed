"""The local launcher with small stand-ins for ranks: real processes, signals and exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import local
from launch.rank_environment import for_compiler, for_threads, is_rank
from trainer.config import Launch
from trainer.errors import ConfigError

TELL = """
import os, sys, time, signal
from launch import failure
from trainer.errors import ConfigError
rank = int(os.environ["RANK"])
def end_with(error): sys.exit(failure.report(failure.of_exception(error)))
"""


def launch_program(body, processes=2, stop_grace_s=0.5):
    """Source of a launcher of ranks that run `body`."""
    return (
        "import os, sys\nfrom launch import local\n"
        f"environments = local.rank_environments({processes}, None, os.environ, has_cuda=False)\n"
        f"command = [sys.executable, '-c', {TELL + body!r}]\n"
        f"sys.exit(local.launch(command, environments, stop_grace_s={stop_grace_s}))\n"
    )


def start(body, *, processes=2, stop_grace_s=0.5, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", launch_program(body, processes, stop_grace_s)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(body, **options):
    process = start(body, **options)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_each_rank_gets_its_environment(tmp_path):
    body = f"import json; open(r'{tmp_path}/' + str(rank), 'w').write(json.dumps(dict(os.environ)))"
    assert run(body, processes=3)[0] == 0
    ranks = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert [(r["RANK"], r["LOCAL_RANK"], r["WORLD_SIZE"], r["LOCAL_WORLD_SIZE"]) for r in ranks] == [
        (str(rank), str(rank), "3", "3") for rank in range(3)
    ]
    assert {(r["MASTER_ADDR"], r["DS_ACCELERATOR"]) for r in ranks} == {("127.0.0.1", "cpu")}
    assert len({r["MASTER_PORT"] for r in ranks}) == 1
    assert all(is_rank(r) for r in ranks)
    assert not is_rank({"SLURM_PROCID": "0", "RANK": "0", "WORLD_SIZE": "1"})


def test_threads_follow_the_key_then_the_user_then_the_cores():
    cores = len(os.sched_getaffinity(0))
    assert for_threads(2, None, {})["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    assert for_threads(2, None, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    assert for_threads(2, 3, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "3"


def test_threads_spin_only_where_each_has_a_core_and_the_user_s_word_counts():
    cores = len(os.sched_getaffinity(0))
    assert "OMP_WAIT_POLICY" not in for_threads(1, None, {})
    crowded = for_threads(cores + 1, 1, {})
    assert (crowded["GOMP_SPINCOUNT"], crowded["OMP_WAIT_POLICY"]) == ("0", "passive")
    assert for_threads(cores + 1, 1, {"OMP_WAIT_POLICY": "active"})["OMP_WAIT_POLICY"] == "active"
    assert for_threads(1, 1, {"GOMP_SPINCOUNT": "5"})["GOMP_SPINCOUNT"] == "5"


def test_what_torch_compiles_is_kept_beyond_a_reboot_unless_told_where(tmp_path):
    name = "TORCHINDUCTOR_CACHE_DIR"
    assert for_compiler({"XDG_CACHE_HOME": str(tmp_path)}) == {name: f"{tmp_path}/banyan/torchinductor"}
    assert for_compiler({name: "/else"}) == {name: "/else"}
    assert for_compiler({"HOME": f"{tmp_path}/you"}) == {name: f"{tmp_path}/you/.cache/banyan/torchinductor"}


def test_processes_follow_the_devices():
    assert local.processes_for(Launch(), cuda_devices=0) == 1
    assert local.processes_for(Launch(), cuda_devices=4) == 4
    assert local.processes_for(Launch(processes=3), cuda_devices=0) == 3
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        local.processes_for(Launch(processes=3), cuda_devices=2)
    assert local.count_cuda_devices({**os.environ, "CUDA_VISIBLE_DEVICES": ""}) == 0


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((85, 85), 85), ((0, 85), 85), ((3, 0), 3), ((85, 4), 4)])
def test_exit_codes_of_ranks_become_one(codes, expected):
    code, _, err = run(f"sys.exit({codes}[rank])")
    assert code == expected
    assert (err == "") == (expected in (0, 85))


def test_the_first_error_is_shown_not_the_last(tmp_path):
    body = f"""
if rank == 1:
    try: raise ValueError("the cause")
    except ValueError as error: code = failure.report(failure.of_exception(error))
    open(r"{tmp_path}/told", "w")
    sys.exit(code)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while not os.path.exists(r"{tmp_path}/told"): time.sleep(0.01)
try: raise RuntimeError("connection closed by peer")
except RuntimeError as error: end_with(error)
"""
    code, _, err = run(body, stop_grace_s=3)
    assert code == 1
    assert "ValueError: the cause" in err
    assert "rank 1 crashed" in err
    assert "connection closed" not in err


def test_one_error_of_all_ranks_is_printed_once():
    code, out, err = run("end_with(ConfigError('model.x: no.'))", processes=3)
    assert (code, out, err) == (2, "", "banyan: model.x: no.\n")


def test_a_killed_rank_is_blamed_before_the_peers_that_noticed(tmp_path):
    body = f"""
if rank == 1:
    open(r"{tmp_path}/dying", "w")
    os.kill(os.getpid(), signal.SIGKILL)
while not os.path.exists(r"{tmp_path}/dying"): time.sleep(0.01)
time.sleep(0.05)
end_with(ConnectionError("closed by peer"))
"""
    code, _, err = run(body)
    assert code == 128 + signal.SIGKILL
    assert "rank 1 was killed by SIGKILL" in err
    assert "closed by peer" not in err


def test_rank_zero_speaks_and_the_others_only_when_they_crash(tmp_path):
    assert run("print('from', rank)") == (0, "from 0\n", "")
    body = f"""
print('from', rank, flush=True)
if rank == 0:
    open(r'{tmp_path}/spoken', 'w').close()
    time.sleep(20)
while not os.path.exists(r'{tmp_path}/spoken'):
    time.sleep(0.01)
os._exit(7)
"""
    code, out, err = run(body)
    assert (code, out) == (7, "from 0\n")
    assert err == "from 1\nbanyan: rank 1 ended with exit code 7.\n"


def test_what_a_rank_prints_is_kept_to_its_end_whatever_it_prints():
    code, _, err = run(
        "if rank == 1: sys.stdout.write('x' * 10_000_000 + '\\n'); print('the end', flush=True); os._exit(7)"
    )
    assert code == 7
    assert "the end\nbanyan: rank 1 ended with exit code 7." in err
    assert len(err) < 500_000


def test_a_rank_deaf_to_sigterm_is_killed_after_the_grace():
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif rank == 0: time.sleep(0.5); sys.exit(3)\ntime.sleep(60)"
    begun = time.monotonic()
    assert run(body)[0] == 3
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_every_rank_and_the_launcher_waits(number, tmp_path):
    body = f"""
def stop(number, frame):
    open(r'{tmp_path}/stopped-' + str(rank), 'w').write(str(int(number)))
    time.sleep(0.2)
    os._exit(85)
signal.signal({int(number)}, stop)
open(r'{tmp_path}/ready-' + str(rank), 'w')
time.sleep(60)
"""
    process = start(body)
    wait_for(lambda: all((tmp_path / f"ready-{rank}").exists() for rank in range(2)))
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (85, "")
    assert [(tmp_path / f"stopped-{rank}").read_text() for rank in range(2)] == [str(int(number))] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_no_rank_outlives_a_killed_launcher(tmp_path):
    process = start(f"open(r'{tmp_path}/' + str(rank), 'w').write(str(os.getpid()))\ntime.sleep(60)")
    files = [tmp_path / str(rank) for rank in range(2)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files))
    process.kill()
    process.communicate(timeout=10)
    wait_for(lambda: not any(_alive(int(file.read_text())) for file in files))


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name")
def test_a_killed_launcher_leaves_no_file_behind(tmp_path):
    process = start(f"print('x'); open(r'{tmp_path}/' + str(rank), 'w')\ntime.sleep(60)", TMPDIR=str(tmp_path))
    wait_for(lambda: all((tmp_path / str(rank)).exists() for rank in range(2)))
    process.kill()
    process.communicate(timeout=10)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


def test_a_signal_that_ends_ranks_before_they_listen_is_told_as_such(tmp_path):
    process = start(f"open(r'{tmp_path}/' + str(rank), 'w')\ntime.sleep(60)")
    wait_for(lambda: all((tmp_path / str(rank)).exists() for rank in range(2)))
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, "banyan: ended by SIGTERM\n")


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
