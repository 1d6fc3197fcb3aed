"""Fine-tuning and evaluation on a Ray cluster give what they give here."""

import pytest

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from tests.targets import make_masked_dataset
from tests.verbs.test_evaluate import evaluate_into, verb


@pytest.mark.full
def test_fine_tuning_and_evaluation_are_those_of_local_ranks(daemons, corpus, tmp_path):
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "base", train__steps=2), 1) == [0]
    chats = make_masked_dataset(tmp_path / "chats" / "train", documents=90, longest=28).folder.parent
    make_masked_dataset(chats / "validation", documents=30, longest=28, seed=1)
    keys = [f"model.init_from={tmp_path / 'base'}", f"data.path={chats}", "data.sequence_length=32", "train.steps=4"]
    keys += ["train.batch_size=8", "train.micro_batch_size=2", "optimizer.lr=1e-3", "train.precision=fp32"]
    keys += ["evaluate.every=4", "track.wandb.mode=disabled", "parallel.zero_stage=2", f"run.dir={tmp_path / 'run'}"]
    driver = daemons.banyan("finetune", "launch=ray", "launch.workers=2", *keys, log=tmp_path / "tune.log")
    assert driver.wait() == 0, driver.output()

    calm = small_config(chats, tmp_path / "calm", data__packing="whole", train__steps=4, optimizer__lr=1e-3)
    calm.model.init_from, calm.schedule.warmup_steps, calm.schedule.min_ratio = str(tmp_path / "base"), 10, 0.0
    calm.optimizer.weight_decay, calm.parallel.zero_stage = 0.0, 2
    assert run_ranks(pretrain, calm, 2) == [0, 0]
    for row, expected in zip(read_metrics(tmp_path / "run"), read_metrics(tmp_path / "calm"), strict=True):
        assert (row["step"], row["train/loss"]) == (expected["step"], pytest.approx(expected["train/loss"], rel=1e-6))

    run_dir = f"run.dir={tmp_path / 'run'}"
    driver = daemons.banyan("evaluate", "launch=ray", "launch.workers=2", run_dir, log=tmp_path / "evaluate.log")
    assert driver.wait() == 0, driver.output()
    assert run_ranks(evaluate_into, (verb(tmp_path / "run"), tmp_path / "here.txt"), 1) == [0]
    (line,) = [line for line in (tmp_path / "here.txt").read_text().splitlines() if "nats per token" in line]
    assert line in driver.output()  # behind Ray's name of the worker
