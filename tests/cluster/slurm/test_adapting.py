"""Fine-tuning and evaluation as SLURM jobs give what they give here."""

import pytest

from tests.cluster.slurm.jobs import Job, banyan_verb, course
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.targets import make_masked_dataset
from tests.verbs.test_evaluate import evaluate_into, read_scores, verb

TWO = ["launch.nodes=2", "launch.threads=1"]


@pytest.mark.full
def test_a_fine_tuning_job_and_its_evaluation_are_those_of_local_ranks(cluster, corpus, tmp_path):
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "base", train__steps=2), 1) == [0]
    chats = make_masked_dataset(tmp_path / "chats" / "train", documents=90, longest=28).folder.parent
    make_masked_dataset(chats / "validation", documents=30, longest=28, seed=1)
    keys = {
        "model.init_from": tmp_path / "base",
        "data.path": chats,
        "data.sequence_length": 32,
        "train.steps": 4,
        "train.batch_size": 8,
        "train.micro_batch_size": 2,
        "optimizer.lr": 1e-3,
        "train.precision": "fp32",
        "evaluate.every": 4,
        "track.wandb.mode": "disabled",
        "parallel.zero_stage": 2,
        "train.epochs": "null",
    }
    given = [f"{key}={value}" for key, value in keys.items()]
    done = banyan_verb(cluster, tmp_path, "finetune", *TWO, *given, f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    job = job_of(cluster, done, tmp_path / "run")
    assert job.wait_for_end() == "COMPLETED", job.log

    changes = {key.replace(".", "__"): value for key, value in keys.items() if key not in ("train.epochs", "data.path")}
    calm = small_config(chats, tmp_path / "calm", data__packing="whole", optimizer__weight_decay=0.0, **changes)
    calm.model.init_from, calm.schedule.warmup_steps, calm.schedule.min_ratio = str(tmp_path / "base"), 10, 0.0
    calm.checkpoint.every = 100
    assert run_ranks(pretrain, calm, 2) == [0, 0]
    assert course(tmp_path / "run") == course(tmp_path / "calm")

    done = banyan_verb(cluster, tmp_path, "evaluate", *TWO, f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    job = job_of(cluster, done, tmp_path / "run" / "evaluate")
    assert job.wait_for_end() == "COMPLETED", job.log
    assert run_ranks(evaluate_into, (verb(tmp_path / "run"), tmp_path / "here.txt"), 1) == [0]
    assert read_scores(job.log) == read_scores((tmp_path / "here.txt").read_text())

    done = banyan_verb(cluster, tmp_path, "evaluate", *TWO, f"run.dir={tmp_path / 'absent'}")
    assert done.returncode == 2
    assert not (tmp_path / "absent").exists()


def job_of(cluster, done, folder):
    """The job that a command says it has submitted."""
    number = done.stdout.split()[1]
    return Job(cluster, number, folder, folder / "logs" / f"slurm-{number}.log")
