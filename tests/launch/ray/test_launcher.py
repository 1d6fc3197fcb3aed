"""The Ray launcher's own decisions: when it tries again, whom it blames, which paths it takes. No cluster is needed."""

import os
import signal
import subprocess
import sys

import pytest

from launch.cli import main
from launch.compose import compose
from launch.failure import Failure
from launch.rank_group import ExitStatus
from launch.ray import launcher as ray_launcher
from launch.ray.cluster import Demand, bundles_in
from launch.ray.paths import COPIES, folder_of_ranks
from trainer.config import Launch
from trainer.errors import ConfigError

LOST = ExitStatus(137, Failure(0.0, 1, 137, "worker 1 was lost"))


def persevere(statuses, run_dir=None, max_failures=2, received=()):
    """Exit code, and how many of the `outcomes` were needed; one that is a number makes that checkpoint, then fails."""
    left = list(statuses)

    def attempt():
        status = left.pop(0)
        if isinstance(status, int):
            (run_dir / "checkpoints" / f"step-{status:08d}").mkdir(parents=True)
            return LOST
        return status

    code = ray_launcher.persevere(attempt, Launch(max_failures=max_failures), run_dir, received)
    return code, len(statuses) - len(left)


def test_failures_are_counted_since_the_last_newer_checkpoint(tmp_path):
    done = ExitStatus(0)
    assert persevere([LOST, LOST, done]) == (0, 3)
    assert persevere([LOST, LOST, LOST, done]) == (137, 3)
    assert persevere([LOST, LOST, 10, LOST, 20, LOST, done], tmp_path) == (0, 7)


def test_what_only_the_user_can_mend_and_what_was_stopped_is_not_tried_again():
    assert persevere([ExitStatus(2, Failure(0.0, 0, 2, "no such folder")), ExitStatus(0)]) == (2, 1)
    assert persevere([LOST, ExitStatus(0)], received=[signal.SIGTERM]) == (137, 1)
    assert persevere([ExitStatus(85), ExitStatus(0)]) == (85, 1)


def test_lost_worker_is_blamed_before_the_peers_that_it_took_along():
    pytest.importorskip("ray", reason='pip install -e ".[ray]"')
    from launch.ray.attempt import failure_to_blame
    from launch.ray.worker import RanksFailed

    def crash(at, code=1):
        return RanksFailed(ExitStatus(code, Failure(at, 0, code, f"failed at {at}")))

    lost = failure_to_blame({0: crash(1.0), 1: RuntimeError("ActorMetadata(node_ip='10.0.0.2')"), 2: crash(0.5)})
    assert (lost.exit_code, lost.failure.message[:31]) == (137, "worker 1 on 10.0.0.2 was lost: ")
    assert failure_to_blame({0: crash(1.0), 1: crash(2.0, code=137)}).exit_code == 137
    assert failure_to_blame({0: crash(2.0), 1: crash(1.0)}).failure.message == "failed at 1.0"
    assert str(crash(1.0)) == "failed at 1.0"


def test_bundles_are_counted_by_their_scarcest_resource():
    bundle = Demand(least=2, most=2, ranks=2, cpus=4.0, gpus=2).bundle
    assert bundle == {"CPU": 4.0, "GPU": 2.0}
    assert bundles_in({"CPU": 64.0, "GPU": 8.0}, bundle) == 4
    assert bundles_in({"CPU": 6.0, "GPU": 8.0}, bundle) == 1
    assert bundles_in({"CPU": 64.0}, bundle) == 0


def error_line(verb, arguments):
    with pytest.raises(ConfigError) as caught:
        folder_of_ranks(compose(verb, ["launch=ray", *arguments]))
    return str(caught.value)


def test_relative_paths_of_a_submitted_job_are_refused(tmp_path, monkeypatch):
    assert folder_of_ranks(compose("pretrain", ["launch=ray"])) == os.getcwd()
    copied = tmp_path / COPIES / "_ray_pkg_0123"
    copied.mkdir(parents=True)
    monkeypatch.chdir(copied)
    assert "run.dir=/shared/…" in error_line("pretrain", ["data.path=/data/mine"])
    assert "run.dir=runs/a is relative" in error_line("pretrain", ["data.path=/data/mine", "run.dir=runs/a"])
    assert "data.path=data/stdlib is relative" in error_line("pretrain", ["run.dir=/shared/a"])
    mixture = ["run.dir=/shared/a", "data.train.web.path=/data/web", "data.train.code.path=code"]
    assert "data.train.code.path=code is relative" in error_line("pretrain", mixture)
    assert "data.output=out is relative" in error_line("prepare", ["data.input=/texts", "data.output=out"])
    assert "data.input=texts is relative" in error_line("prepare", ["data.input=texts", "data.output=/out"])
    assert folder_of_ranks(compose("pretrain", ["launch=ray", "run.dir=/shared/a", "data.path=s3://b/data"])) is None


def test_number_of_workers_must_be_given(capsys):
    assert main(["pretrain", "launch=ray"]) == 2
    assert capsys.readouterr().err.startswith("banyan: launch.workers is not set: give a number of ranks")
    assert main(["pretrain", "launch=ray", "launch.workers=[2,4]", "parallel.tensor=2"]) == 2
    assert "or a fixed launch.workers" in capsys.readouterr().err


def test_address_of_another_kind_says_how_to_submit(capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert main(["pretrain", "launch=ray", "launch.workers=1"]) == 2
    assert "ray job submit --address" in capsys.readouterr().err


def test_prepare_takes_one_number_of_workers(capsys):
    assert main(["prepare", "launch=ray", "launch.workers=[1,2]", "data.output=/nowhere"]) == 2
    assert "prepare takes the most items at once" in capsys.readouterr().err
    assert main(["prepare", "launch=ray", "data.workers=2", "data.output=/nowhere"]) == 2
    assert "use launch.workers" in capsys.readouterr().err
    assert main(["prepare", "launch=slurm", "data.output=/nowhere"]) == 2
    assert "use sbatch slurm/prepare.sbatch" in capsys.readouterr().err
    assert main(["prepare", "launch.processes=2", "data.output=/nowhere"]) == 2
    assert "use data.workers" in capsys.readouterr().err


HIDE_RAY = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
"""


def test_without_ray_the_trainer_imports_and_the_launcher_says_what_to_install():
    program = f"{HIDE_RAY}\nimport launch.cli, trainer.verbs.pretrain, trainer.verbs.prepare, trainer.verbs.evaluate\n"
    program += "from launch.cli import main; sys.exit(main(['pretrain', 'launch=ray', 'launch.workers=1']))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr == "banyan: launch=ray needs Ray, which isn't installed: pip install 'banyan-train[ray]'.\n"
