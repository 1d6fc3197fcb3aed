"""What a SLURM job does next, from what its ranks left."""

import dataclasses
import json
import subprocess
import sys

import pytest

from launch.failure import Failure
from launch.slurm.starts import Starts, last_start, newest_step
from launch.slurm.verdict import Allocation, after, begin, check_allocation
from trainer.config import Launch
from trainer.errors import ConfigError
from trainer.machine.durable import write_json

JOB = Allocation(job="7", nodes=2, tasks_per_node=1, gpus_per_node=0, chain="")
CHAINED = dataclasses.replace(JOB, chain="chain-1")


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    Starts(JOB.job, step=0, fruitless=0, most=2).write(tmp_path / "run")
    return tmp_path / "run"


def checkpoint(run_dir, step, *, whole=True):
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    if whole:
        (folder / "COMPLETE").touch()


def fail(run_dir, rank, code, message, *, at):
    (run_dir / "logs" / "slurm").mkdir(parents=True, exist_ok=True)
    left = Failure(float(at), rank, code, message)
    write_json(run_dir / "logs" / "slurm" / f"rank-{rank:05d}.error", dataclasses.asdict(left))


def stop(run_dir, reason):
    write_json(run_dir / "stopped.json", {"reason": reason, "step": 3, "time": 0.0})


def test_the_newest_checkpoint_is_a_whole_one(run_dir):
    assert newest_step(run_dir) == 0
    checkpoint(run_dir, 20)
    checkpoint(run_dir, 40, whole=False)
    (run_dir / "checkpoints" / "step-00000060.partial-1a").mkdir()
    assert newest_step(run_dir) == 20


def test_a_finished_run_ends_the_job(run_dir):
    assert after(run_dir, 0, False, JOB) == "end 0"


@pytest.mark.parametrize(
    ("reason", "verdict"), [("signal", "requeue"), ("time", "requeue"), ("file", "end 85"), ("step", "end 85")]
)
def test_who_asked_for_the_stop_decides_whether_the_job_comes_back(run_dir, reason, verdict):
    stop(run_dir, reason)
    assert after(run_dir, 0, False, JOB) == verdict


def test_in_a_chain_the_next_job_goes_on_instead(run_dir):
    stop(run_dir, "time")
    assert after(run_dir, 0, False, CHAINED) == "end 85"


def test_a_crash_starts_the_ranks_again_until_no_start_leaves_a_newer_checkpoint(run_dir, capsys):
    assert [after(run_dir, 137, False, JOB) for _ in range(2)] == ["restart", "restart"]
    checkpoint(run_dir, 20)
    assert [after(run_dir, 137, False, JOB) for _ in range(4)] == ["restart", "restart", "restart", "end 1"]
    assert "gave up: 3 starts in a row left no newer checkpoint than step 20" in capsys.readouterr().err


def test_a_job_that_crashed_when_asked_to_stop_is_queued_again_but_not_for_ever(run_dir):
    Starts(JOB.job, step=0, fruitless=2, most=2).write(run_dir)
    assert after(run_dir, 143, True, JOB) == "end 1"
    checkpoint(run_dir, 20)
    assert after(run_dir, 143, True, JOB) == "requeue"


def test_bad_configuration_ends_the_job_and_its_chain(run_dir, capsys):
    fail(run_dir, 1, 1, "connection lost", at=2)
    fail(run_dir, 0, 2, "data.path=x: no such folder.", at=1)
    assert after(run_dir, 143, False, CHAINED) == "end 2"
    assert "data.path=x: no such folder." in capsys.readouterr().err
    assert last_start(run_dir).refused == "data.path=x: no such folder."


def test_a_killed_rank_is_blamed_before_peers_that_noticed(run_dir, capsys):
    fail(run_dir, 0, 1, "connection lost", at=1)
    (run_dir / "logs" / "slurm" / "rank-1.killed").write_text("9 n2\n")
    (run_dir / "logs" / "slurm" / "rank-2.killed").write_text("15 n3\n")
    assert after(run_dir, 143, False, JOB) == "restart"
    assert "rank 1 on n2 was killed by SIGKILL (the kernel does that when memory runs out)." in capsys.readouterr().err


def small(run_dir, *more):
    return ["data.path=data", "train.batch_size=4", f"run.dir={run_dir}", *more]


def test_begin_counts_the_starts_of_a_job_and_a_new_job_begins_anew(run_dir):
    for expected in (1, 2):
        assert begin(small(run_dir, "launch.max_restarts=2"), JOB) == run_dir
        assert last_start(run_dir).fruitless == expected
    with pytest.raises(ConfigError, match="gave up: 3 starts"):
        begin(small(run_dir, "launch.max_restarts=2"), JOB)
    begin(small(run_dir), dataclasses.replace(JOB, job="8"))
    assert last_start(run_dir) == Starts("8", step=0, fruitless=0, most=3)


def test_begin_of_a_chain_remembers_what_was_refused(run_dir):
    Starts(CHAINED.chain, 0, 0, 3, refused="data.path=x: no such folder.").write(run_dir)
    with pytest.raises(ConfigError, match="found by an earlier job of this chain"):
        begin(small(run_dir), CHAINED)
    begin(small(run_dir), JOB)


def test_begin_has_nothing_to_do_for_a_finished_run(run_dir):
    (run_dir / "summary.txt").touch()
    checkpoint(run_dir, 10)
    assert begin(small(run_dir, "train.steps=10"), JOB) is None
    assert begin(small(run_dir, "train.steps=11"), JOB) == run_dir


def test_begin_removes_what_failed_ranks_left(run_dir):
    fail(run_dir, 0, 1, "old", at=0)
    begin(small(run_dir), JOB)
    assert [path.name for path in (run_dir / "logs" / "slurm").iterdir()] == ["nodes"]


@pytest.mark.parametrize(
    ("launch", "allocation", "answer"),
    [
        (Launch(nodes=4), JOB, "use sbatch --nodes=4"),
        (Launch(gpus_per_node=8), JOB, "use sbatch --gpus-per-node=8"),
        (Launch(), dataclasses.replace(JOB, gpus_per_node=1, gpus_per_task="1"), "use sbatch --gpus-per-node"),
        (Launch(), dataclasses.replace(JOB, gpus_per_node=8), "8 GPUs and 1 tasks .* --ntasks-per-node=8"),
    ],
)
def test_an_allocation_that_does_not_fit_is_refused(launch, allocation, answer):
    with pytest.raises(ConfigError, match=answer):
        check_allocation(launch, allocation)


def test_the_command_says_why_on_stderr_and_imports_no_torch(run_dir):
    program = (
        "import sys\nfrom launch.slurm.verdict import main\n"
        "code = main(sys.argv[1:])\nassert 'torch' not in sys.modules\nsys.exit(code)\n"
    )
    variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program, "begin", *small(run_dir)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "3 ranks" in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", program, "begin", *small(run_dir, "train.batch_size=12")],
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{run_dir}\n", "")
    assert json.loads((run_dir / "slurm.json").read_text())["fruitless"] == 1
