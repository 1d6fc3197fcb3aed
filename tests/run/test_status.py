"""What a run is doing, told by its directory alone: while it lives, on another host, and after its end."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from launch.ray import waiting_run
from tests.run.story import wait_for
from tests.run_ranks import fail_ranks, pretrain, run_ranks, small_config, start_ranks
from trainer.errors import BanyanError, ConfigError, InputError
from trainer.run import queue
from trainer.run.lock import Holder
from trainer.run.status import read_status
from trainer.track.sinks.starts import END, FAILURE, START, append_record, read_lives, record_failure
from trainer.verbs import status


def make_run(folder, *, lock=None, age_s=0.0, records=()):
    """A run directory of files alone."""
    (folder / "heartbeats").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    if lock is not None:
        (folder / "lock").write_text(json.dumps(dataclasses.asdict(lock)))
        os.utime(folder / "lock", (time.time() - age_s, time.time() - age_s))
    for kind, values in records:
        append_record(folder, kind, values)
    return folder


def elsewhere(**changes):
    return dataclasses.replace(Holder.myself(), host="n7", machine="another", pid=7, **changes)


BEGAN = {
    "time": 100.0,
    "host": "n7",
    "pid": 7,
    "step": 20,
    "total_steps": 90,
    "ranks": 4,
    "launcher": "slurm",
    "job": "31",
}


def test_a_run_that_trains_is_seen_to_and_so_is_its_sudden_end(corpus, tmp_path):
    run_dir = tmp_path / "run"
    config = small_config(corpus, run_dir, train__steps=100_000, checkpoint__every=20, evaluate__every=50)
    ranks = start_ranks(pretrain, config, 1)
    wait_for(run_dir, 45, lambda: ranks.processes[0].is_alive())
    found = read_status(run_dir)
    assert found.state in ("training", "evaluating", "saving", "starting")
    assert found.pid == ranks.processes[0].pid
    assert found.step >= 45
    assert found.seconds_left > 0
    assert found.checkpoint_step in (20, 40, 60, 80)
    ranks.kill()
    found = read_status(run_dir)
    assert (found.state, found.lives) == ("killed", False)
    assert "without a word" in found.reason
    (run_dir / "stop").touch()
    assert run_ranks(pretrain, config, 1) == [85]
    found = read_status(run_dir)
    assert (found.state, found.reason) == ("stopped", "stopped: file")
    assert len(found.restarts) == 1


def test_a_crash_says_why(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", optimizer__lr=10.0, optimizer__weight_decay=10.0, train__steps=3000)
    config.train.gradient_clipping = 0.0
    codes, _ = fail_ranks(pretrain, config)
    assert codes == [3]
    found = read_status(tmp_path / "run")
    assert found.state == "crashed"
    assert found.reason.startswith("NonFiniteError: step ")
    assert any("NonFiniteError" in line for line in found.said)


@pytest.mark.parametrize(("age_s", "state"), [(1.0, "starting"), (30.0, "silent"), (600.0, "killed")])
def test_on_another_host_the_locks_age_tells(tmp_path, age_s, state):
    run = make_run(tmp_path / "run", lock=elsewhere(), age_s=age_s)
    assert read_status(run).state == state


def test_where_a_job_runs_and_why_it_failed_are_told(tmp_path):
    run = make_run(tmp_path / "run", records=[(START, BEGAN)])
    record_failure(run, at=200.0, rank=3, exit_code=137, reason="rank 3 was killed by SIGKILL.", began=90.0)
    found = read_status(run)
    assert (found.state, found.reason) == ("killed", "rank 3 was killed by SIGKILL.")
    assert (found.launcher, found.job, found.ranks, found.ended) == ("slurm", "31", 4, 200.0)


def test_a_refused_start_doesnt_change_how_the_one_before_ended(tmp_path):
    ended = {"time": 150.0, "exit_code": 0, "reason": "finished", "step": 90}
    run = make_run(tmp_path / "run", records=[(START, BEGAN), (END, ended)])
    record_failure(run, at=200.0, rank=0, exit_code=2, reason="optimizer.lr can't change", began=190.0)
    assert read_status(run).state == "finished"
    killed = make_run(tmp_path / "killed", records=[(START, BEGAN)])
    record_failure(killed, at=200.0, rank=0, exit_code=2, reason="optimizer.lr can't change", began=190.0)
    assert read_status(killed).state == "killed"


def test_a_torn_line_costs_itself_alone(tmp_path):
    run = make_run(tmp_path / "run", records=[(START, BEGAN)])
    with (run / "starts.jsonl").open("a") as file:
        file.write('{"kind": "end", "ti')
    append_record(run, START, BEGAN | {"step": 40, "logged": 47})
    first, second = read_lives(run)
    assert (first.ended, second.start.lost_steps) == (False, 7)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b'{"kind": "start", "pid": -1}\n', "pid"), (b'{"kind": "start", "layout": 3}\n', "layout")],
)
def test_a_record_that_no_run_wrote_is_refused(tmp_path, content, said):
    run = make_run(tmp_path / "run")
    (run / "starts.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_status(run)


def test_heartbeats_and_locks_of_others_are_no_harm(tmp_path):
    run = make_run(tmp_path / "run", records=[(START, BEGAN)])
    for number, content in enumerate([b"[]", b"{", b'{"rank": "x"}', b"9" * 10**6, b"\xff"]):
        (run / "heartbeats" / f"rank-{number:05d}").write_bytes(content)
    os.mkfifo(run / "heartbeats" / "rank-00009")
    (run / "logs").mkdir()
    (run / "logs" / "rank-00000.log").write_bytes(b"\xff\n\x1b[31mred\n" + b"x" * 10**6)
    assert read_status(run).hosts == []
    (run / "lock").write_bytes(b"[" * 9999)
    assert read_status(run).state in ("starting", "silent", "killed")


ROW = {"step": 40, "tokens": 5120, "time": 150.0, "train/loss": 2.5}


@pytest.mark.parametrize(
    ("end", "step", "problem"),
    [
        (b'{"step": 50, "tok', 40, ""),
        (b"\xff\x00\n\x80[\n", 40, "metrics.jsonl: 2 lines of its end can't be read"),
        (b"\x00" * 300_000, 20, "metrics.jsonl: 1 line of its end can't be read"),
    ],
)
def test_what_is_damaged_is_said_and_the_rest_is_told(tmp_path, capsys, end, step, problem):
    run = make_run(tmp_path / "run", records=[(START, BEGAN)])
    (run / "metrics.jsonl").write_bytes(json.dumps(ROW).encode() + b"\n" + end)
    found = read_status(run)
    assert (found.step, found.state, found.problems) == (step, "killed", [problem] if problem else [])
    assert status.main([str(run)]) == 0
    assert (f"  damaged    {problem}" in capsys.readouterr().out) == bool(problem)


def test_a_journal_that_is_no_file_and_a_run_of_an_earlier_version_are_told(tmp_path, capsys):
    run = make_run(tmp_path / "runs" / "old")
    (run / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    assert "earlier version" in read_status(run).reason
    broken = make_run(tmp_path / "runs" / "broken", records=[(START, BEGAN)])
    (broken / "metrics.jsonl").mkdir()
    assert read_status(broken).problems == ["metrics.jsonl: not a regular file"]
    refused = make_run(tmp_path / "runs" / "refused")
    (refused / "starts.jsonl").write_text('{"kind": "start", "pid": -1}\n')
    assert status.main([str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == ["run", "broken", "old"]
    assert shown.err.count("\n") == 1
    assert "starts.jsonl: pid: " in shown.err


def test_several_are_a_table_and_a_folder_of_runs_is_all_of_them(tmp_path, capsys):
    for name in ("a", "b"):
        make_run(
            tmp_path / "runs" / name, records=[(START, BEGAN), (END, {"exit_code": 85, "reason": "stopped: time"})]
        )
    assert status.main([str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["run", "state"], ["a", "stopped"], ["b", "stopped"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes a run directory"),
        (["nowhere"], "there is no such folder"),
        (["."], "no run directory, and none in it"),
        ([".", "format=xml"], "format=xml: choose one of text, json"),
        ([".", "colour=red"], "colour: no such setting; there are format"),
        (["--watch"], "--watch: no such option"),
    ],
)
def test_what_cant_be_done_is_said_in_a_line(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BanyanError, match=said) as error:
        status.main(arguments)
    assert error.value.exit_code == 2
    assert isinstance(error.value, ConfigError | InputError)
    assert FAILURE == "failure"


WAITS = "31|PENDING|Priority||2026-11-28T18:00:00|1-00:00:00"


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [
        (WAITS, "queued", "slurm job 31: pending, Priority, to start 2026-11-28 18:00:00, as SLURM expects"),
        ("31|RUNNING|None|n[1-2]|2026-11-28T12:00:00|3:12:00", "starting", "31: running on n[1-2], 3h12m of its"),
        ("31|PENDING|JobHeldUser||N/A|UNLIMITED", "queued", "slurm job 31: pending, JobHeldUser"),
    ],
)
def test_a_job_in_the_queue_is_told_as_squeue_has_it(tmp_path, line, state, said):
    run = make_run(tmp_path / "run", records=[(START, BEGAN), (END, {"exit_code": 85, "reason": "stopped: time"})])
    (job,) = filter(None, map(queue.as_job, [line, "slurm_load_jobs error", "31|RUNNING"]))
    found = read_status(run, job)
    assert (found.state, found.reason.partition("; before that, ")[2]) == (state, "stopped: time")
    assert any(said in shown for shown in status.in_full(found, time.time()))
    done = make_run(tmp_path / "done", records=[(START, BEGAN), (END, {"exit_code": 0, "reason": "finished"})])
    assert read_status(done, job).state == "finished"


def test_jobs_that_were_submitted_and_never_began_are_known_and_nothing_else_is_asked_for(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    queue.record_submission(run, ["8", "9"])
    assert queue.jobs_of_run(run, []) == ["8", "9"]
    assert "none is in the queue" in read_status(run).reason
    (run / "submitted.json").write_text('{"jobs": ["8", "--version", "9;id"]}')
    assert queue.jobs_of_run(run, []) == ["8"]
    (run / "submitted.json").write_text("[")
    assert status.main([str(run)]) == 0
    assert "unknown" in capsys.readouterr().out


def test_a_driver_on_ray_that_waits_for_room_is_told_while_it_lives(tmp_path):
    config = {"runtime_env": {}, "metadata": {"job_name": "n", "job_submission_id": "raysubmit_7"}}
    assert waiting_run.submission_id({waiting_run.JOB_CONFIG: json.dumps(config)}) == "raysubmit_7"
    assert waiting_run.submission_id({waiting_run.JOB_CONFIG: "{"}) == waiting_run.submission_id({}) == ""
    run_dir, needs = tmp_path / "run", "3 × (1 CPU on one node) are needed, 1 CPU are free"
    waiting = waiting_run.WaitingRun(run_dir, "raysubmit_7")
    waiting.waits(needs)
    found = read_status(run_dir)
    assert (found.state, found.reason) == ("queued", f"job raysubmit_7 waits for room: {needs}")
    append_record(run_dir, START, BEGAN | {"time": time.time() + 1})  # it has begun, and was killed
    assert read_status(run_dir).state == "killed"
    waiting.ends()
    assert not (run_dir / "submitted.json").exists()
    waiting_run.WaitingRun(None).waits(needs)  # a verb that doesn't train
    gone = tmp_path / "gone"
    code = "import sys; from launch.ray.waiting_run import WaitingRun as W; from pathlib import Path; "
    subprocess.run([sys.executable, "-c", f"{code}W(Path(sys.argv[1])).waits('room')", str(gone)], check=True)
    assert "none is in the queue" in read_status(gone).reason
