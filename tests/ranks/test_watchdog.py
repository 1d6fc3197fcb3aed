"""A hang is noticed, the silent rank named, stacks written, the process ended; the same command then goes on."""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config, start_ranks
from trainer.ranks.heartbeat import Heartbeat, HeartbeatFiles, Sign
from trainer.ranks.watchdog import judge

TIMEOUT_S = 8.0
STEPS = 120


def configure(corpus, run_dir, **changes):
    return small_config(
        corpus,
        run_dir,
        train__steps=STEPS,
        checkpoint__every=20,
        health__hang_timeout_s=TIMEOUT_S,
        **changes,
    )


def wait_for_step(run_dir, step, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not ((run_dir / "metrics.jsonl").exists() and len(read_metrics(run_dir)) >= step):
        assert time.monotonic() < deadline, "the step didn't come"
        time.sleep(0.02)


def pid_of(run_dir, rank):
    return json.loads((run_dir / "heartbeats" / f"rank-{rank:05d}").read_text())["pid"]


def log_of(run_dir, rank):
    return (run_dir / "logs" / f"rank-{rank:05d}.log").read_text()


def send(number, run_dir, ranks):
    for rank in ranks:
        os.kill(pid_of(run_dir, rank), number)


def sign(rank, *, step=7, beats=3, phase="train", idle_s=20.0, age_s=1.0, patient=False):
    return Sign(rank, Heartbeat(rank, f"n{rank}", 100 + rank, step, phase, beats, patient, idle_s), age_s)


def test_the_silent_rank_is_named():
    signs = [sign(0), sign(1, age_s=19.0), sign(2), Sign(3, None, float("inf"))]
    assert judge(signs, 10.0) == (
        "no progress for 10 s at step 7: rank 1 (host n1, pid 101), rank 3 (never heard of) give no sign of life"
    )


def test_where_all_live_the_rank_that_the_others_wait_for_is_named():
    signs = [sign(0), sign(1, beats=2, phase="data"), sign(2)]
    assert judge(signs, 10.0) == (
        'no progress for 10 s at step 7: the others wait for rank 1 (host n1, pid 101), in phase "data" of step 7'
    )
    assert judge([sign(0), sign(1)], 10.0).endswith('all ranks live, each of them in phase "train"')


@pytest.mark.parametrize(
    "slow", [{"idle_s": 2.0}, {"phase": "save", "patient": True}], ids=["one that moves", "a long phase"]
)
def test_no_hang_while_a_rank_gets_on(slow):
    assert judge([sign(0), sign(1, **slow)], 10.0) is None
    assert judge([sign(0, age_s=9.0), sign(1, **slow)], 10.0) is not None  # not so if another is dead


def test_ages_are_told_by_the_clock_of_the_file_system(tmp_path):
    files = [HeartbeatFiles(tmp_path, rank, 3) for rank in range(3)]
    files[0].clear()
    for rank in (0, 1):
        files[rank].write(sign(rank).heartbeat)
    an_hour_ago = time.time() - 3600
    os.utime(tmp_path / "heartbeats" / "rank-00001", (an_hour_ago, an_hour_ago))
    signs = files[0].read()
    assert signs[0].age_s < 60
    assert 3590 < signs[1].age_s < 3660
    assert signs[1].heartbeat == sign(1).heartbeat
    assert signs[2].heartbeat is None
    files[1].write(replace(sign(1).heartbeat, step=123456))
    assert files[0].read_rank(1).heartbeat.step == 123456
    assert files[0].read_rank(1).age_s < 60


def test_the_first_report_of_a_hang_holds(tmp_path):
    files = [HeartbeatFiles(tmp_path, rank, 2) for rank in range(2)]
    files[0].clear()
    assert files[0].announced() is None
    assert files[1].announce("one") == "one"
    assert files[0].announce("two") == "one"
    files[0].clear()
    assert files[1].announced() is None


def start(corpus, run_dir):
    """The command as a user types it, on two ranks."""
    command = [
        *(sys.executable, "-m", "launch", "pretrain", f"data.path={corpus}", f"run.dir={run_dir}"),
        *("launch.processes=2", "launch.threads=1", f"train.steps={STEPS}", "checkpoint.every=20"),
        *("data.sequence_length=32", "train.batch_size=8", "train.micro_batch_size=2", "track.every=1"),
        *("model.hidden_size=48", "model.intermediate_size=96", "model.num_hidden_layers=2"),
        *("evaluate.every=0", "evaluate.prompt=null", "track.wandb.mode=disabled"),
        f"health.hang_timeout_s={TIMEOUT_S}",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(process):
    """The exit code and what was printed to stderr."""
    _, printed = process.communicate(timeout=240)
    return process.returncode, printed


def waits_in_a_collective(log):
    """Whether the log has the training thread's stack: it waits for the other rank in a step, or right beside one."""
    return "distributed_c10d.py" in log and "trainer/verbs/pretrain.py" in log


def test_a_stopped_rank_is_named_and_the_same_command_goes_on(corpus, tmp_path):
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    undisturbed = start(corpus, calm)
    launcher = start(corpus, disturbed)
    wait_for_step(disturbed, 30)
    stopped = pid_of(disturbed, 1)
    os.kill(stopped, signal.SIGSTOP)
    code, printed = end(launcher)
    assert code == 1, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("banyan: ")]
    assert f"rank 1 (host {os.uname().nodename}, pid {stopped}) gives no sign of life" in line
    assert waits_in_a_collective(log_of(disturbed, 0))
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)

    assert end(undisturbed)[0] == end(start(corpus, disturbed))[0] == 0
    ours, theirs = read_metrics(disturbed), read_metrics(calm)
    assert [row["step"] for row in ours] == list(range(1, STEPS + 1))
    for key in ("train/loss", "train/grad_norm"):
        assert [row[key] for row in ours] == [row[key] for row in theirs]


@pytest.mark.full
def test_rank_0_may_be_the_silent_one(corpus, tmp_path):
    ranks = start_ranks(pretrain, configure(corpus, tmp_path), 2)
    wait_for_step(tmp_path, 5)
    send(signal.SIGSTOP, tmp_path, [0])
    ranks.processes[1].join(120)
    assert ranks.processes[1].exitcode == 1
    ranks.kill()
    printed = log_of(tmp_path, 1)
    assert f"rank 0 (host {os.uname().nodename}, pid {ranks.processes[0].pid}) gives no sign of life" in printed
    assert waits_in_a_collective(printed)


def stuck_in_loader(config):
    """The verb, whose last rank never gets the first batch of step 5."""
    from trainer.data.tokens.loader import Loader

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    batches, micro_steps = Loader.batches, 4 // world_size

    def some(loader, position):
        for number, batch in enumerate(batches(loader, position)):
            if number == 4 * micro_steps:
                time.sleep(600)
            yield batch

    if rank == world_size - 1:
        Loader.batches = some
    return pretrain(config)


def test_the_rank_that_the_others_wait_for_is_named(corpus, tmp_path):
    codes, _ = fail_ranks(stuck_in_loader, configure(corpus, tmp_path), 2)
    assert codes == [1, 1]
    for rank in range(2):
        log = log_of(tmp_path, rank)
        assert "the others wait for rank 1" in log
        assert 'in phase "data" of step 5' in log
    assert "in _on_device" in log_of(tmp_path, 1)
    report = log_of(tmp_path, 0)
    waits = re.search(r"rank 0 waits in (\w+) number (\d+) of group (\w+)", report)
    elsewhere = re.search(r"rank 1 in no collective, the last was (\w+) number (\d+) of group (\w+)", report)
    assert waits, report
    assert elsewhere, report
    assert waits.group(3) != elsewhere.group(3) or int(waits.group(2)) > int(elsewhere.group(2))
    stacks = [(tmp_path / "hang" / f"rank-{rank:05d}.txt").read_text() for rank in range(2)]
    assert "rank 0 in " + waits.group(1) in stacks[0]
    assert "in _on_device" in stacks[1]
    assert all("the others wait for rank 1" in each for each in stacks)


def holding_the_lock_of_python(config):
    """The verb, whose second rank's training thread keeps even the watchdog's thread from running."""
    if os.environ["RANK"] == "1":
        from trainer.engine.loop import Trainer

        take_step = Trainer._take_step

        def some(trainer, step):
            if step == 5:
                ctypes.PyDLL(None).sleep(600)
            return take_step(trainer, step)

        Trainer._take_step = some
    return pretrain(config)


@pytest.mark.full
def test_a_rank_that_holds_the_lock_of_python_is_silent_but_leaves_its_stacks(corpus, tmp_path):
    ranks = start_ranks(holding_the_lock_of_python, configure(corpus, tmp_path), 2)
    ranks.processes[0].join(120)
    assert ranks.processes[0].exitcode == 1
    deadline = time.monotonic() + 60
    while "in some" not in log_of(tmp_path, 1):
        assert time.monotonic() < deadline, "no stacks"
        time.sleep(0.1)
    ranks.kill()
    assert f"pid {ranks.processes[1].pid}) gives no sign of life" in log_of(tmp_path, 0)


@pytest.mark.full
def test_a_run_whose_ranks_were_all_suspended_goes_on(corpus, tmp_path):
    ranks = start_ranks(pretrain, configure(corpus, tmp_path), 2)
    wait_for_step(tmp_path, 5)
    send(signal.SIGSTOP, tmp_path, [0, 1])
    time.sleep(1.5 * TIMEOUT_S)
    send(signal.SIGCONT, tmp_path, [0, 1])
    assert ranks.wait() == [0, 0]
    assert len(read_metrics(tmp_path)) == STEPS


@pytest.mark.full
def test_a_single_process_that_is_stuck_ends(corpus, tmp_path):
    codes, _ = fail_ranks(stuck_in_loader, configure(corpus, tmp_path), 1)
    assert codes == [1]
    assert 'at step 5: the process is in phase "data"' in log_of(tmp_path, 0)


@pytest.mark.full
def test_the_watchdog_can_be_turned_off(corpus, tmp_path):
    assert run_ranks(pretrain, small_config(corpus, tmp_path, health__hang_timeout_s=0.0), 2) == [0, 0]
    assert not (tmp_path / "heartbeats").exists()
