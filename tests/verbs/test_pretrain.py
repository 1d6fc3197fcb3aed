"""The main verb: stops, ends, retention, early stopping, and input that it must refuse."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.corpus import make_dataset, make_tokenizer
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config, start_ranks
from tests.states import assert_equal_states, read_state
from trainer.checkpoint.folders import list_steps
from trainer.config import Run


def wait_for_step(run_dir, step, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not (run_dir / "metrics.jsonl").exists() or len(read_metrics(run_dir)) < step:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stopped(run_dir):
    return json.loads((run_dir / "stopped.json").read_text())


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "signal"), (signal.SIGUSR1, "time")])
def test_signal_to_one_rank_stops_all_after_the_same_step_and_the_run_goes_on(corpus, tmp_path, number, reason):
    run_dir = tmp_path / "run"
    config = small_config(corpus, run_dir, train__steps=4000, parallel__zero_stage=1)
    ranks = start_ranks(pretrain, config, 2)
    wait_for_step(run_dir, 3)
    os.kill(ranks.processes[1].pid, number)
    sent = len(read_metrics(run_dir))
    assert ranks.wait() == [85, 85]
    last = read_metrics(run_dir)[-1]["step"]
    assert list_steps(run_dir) == [last]
    assert stopped(run_dir)["reason"] == reason
    assert last - sent < 10  # a few steps may pass between the reading and the signal

    config.train.stop_at = last + 2
    assert run_ranks(pretrain, config, 2) == [85, 85]
    assert [row["step"] for row in read_metrics(run_dir)] == list(range(1, last + 3))
    assert stopped(run_dir)["reason"] == "step"


def test_stop_file_is_honoured_and_removed(corpus, tmp_path):
    run_dir = tmp_path / "run"
    ranks = start_ranks(pretrain, small_config(corpus, run_dir, train__steps=4000), 1)
    wait_for_step(run_dir, 2)
    (run_dir / "stop").touch()
    assert ranks.wait() == [85]
    assert stopped(run_dir)["reason"] == "file"
    assert not (run_dir / "stop").exists()


def test_stop_at_keeps_the_schedule_and_finished_run_changes_nothing(corpus, tmp_path):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    assert run_ranks(pretrain, small_config(corpus, whole), 1) == [0]
    assert run_ranks(pretrain, small_config(corpus, halted, train__stop_at=4), 1) == [85]
    assert list_steps(halted) == [4]
    assert run_ranks(pretrain, small_config(corpus, halted), 1) == [0]
    assert_equal_states(whole, halted)
    before = sorted(
        (path, path.stat().st_mtime_ns) for path in whole.rglob("*") if not {"logs", "heartbeats"} & set(path.parts)
    )
    assert run_ranks(pretrain, small_config(corpus, whole), 1) == [0]
    assert before == sorted(
        (path, path.stat().st_mtime_ns) for path in whole.rglob("*") if not {"logs", "heartbeats"} & set(path.parts)
    )


def test_stop_at_that_was_reached_before_trains_no_further(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", train__stop_at=4)
    assert run_ranks(pretrain, config, 1) == [85]
    assert run_ranks(pretrain, config, 1) == [85]
    assert list_steps(tmp_path / "run") == [4]


def pretrain_dying_in_summary(config):
    """The verb, killed after its last checkpoint, before its summary is written."""
    import trainer.run.training
    import trainer.verbs.pretrain

    trainer.run.training.announce_end = lambda *arguments: os._exit(137)
    return pretrain(config)


def test_run_killed_after_its_last_checkpoint_still_writes_its_summary(corpus, tmp_path):
    run_dir = tmp_path / "run"
    config = small_config(corpus, run_dir, evaluate__every=5, evaluate__prompt="the")
    assert run_ranks(pretrain_dying_in_summary, config, 1) == [137]
    before = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert run_ranks(pretrain, config, 1) == [0]
    assert "validation: " in (run_dir / "summary.txt").read_text()
    assert (run_dir / "loss.png").is_file()
    rows = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert rows[: len(before)] == before
    assert [set(json.loads(row)) - {"step", "tokens", "time"} for row in rows[len(before) :]] == [
        {"eval/validation/bigram_loss"}
    ]


@pytest.mark.parametrize(("stage", "precision"), [(0, "bf16"), (1, "fp32"), (2, "bf16"), (3, "fp32")])
def test_non_finite_gradient_stops_the_run_and_names_the_step(corpus, tmp_path, stage, precision):
    config = small_config(corpus, tmp_path / "run", parallel__zero_stage=stage, train__precision=precision)
    config.model.initializer_range = 1e30
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [3]
    assert errors[0].startswith("NonFiniteError: step 1: the gradient norm is not finite")
    assert list_steps(tmp_path / "run") == []


@pytest.mark.full
def test_precision_bf16_trains_close_to_fp32_at_every_stage(corpus, tmp_path):
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "fp32", train__steps=5), 1) == [0]
    expected = [row["train/loss"] for row in read_metrics(tmp_path / "fp32")]
    for stage in range(4):
        run_dir = tmp_path / str(stage)
        changes = {"parallel__zero_stage": stage, "train__precision": "bf16", "train__steps": 5}
        config = small_config(corpus, run_dir, **changes)
        assert run_ranks(pretrain, config, 2) == [0, 0]
        assert [row["train/loss"] for row in read_metrics(run_dir)] == pytest.approx(expected, rel=0.02)


def test_dropout_is_the_same_at_every_shape(corpus, tmp_path):
    losses = []
    for world_size, stage in ((1, 0), (2, 3), (4, 1)):
        run_dir = tmp_path / str(world_size)
        config = small_config(corpus, run_dir, parallel__zero_stage=stage, model__dropout=0.2)
        assert run_ranks(pretrain, config, world_size) == [0] * world_size
        losses.append([row["train/loss"] for row in read_metrics(run_dir)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_masks_and_activation_checkpointing_agree_with_plain_pytorch(corpus, tmp_path):
    from tests.engine.reference import train_plainly

    config = small_config(corpus, tmp_path / "run", data__mask_documents=True, parallel__zero_stage=2)
    config.train.activation_checkpointing = "full"
    expected = train_plainly(dataclasses.replace(config))
    assert run_ranks(pretrain, config, 2) == [0, 0]
    rows = read_metrics(tmp_path / "run")
    assert [row["train/loss"] for row in rows] == pytest.approx([loss for loss, _ in expected], rel=1e-4)
    assert [row["train/grad_norm"] for row in rows] == pytest.approx([norm for _, norm in expected], rel=1e-4)


def test_retention_keeps_the_newest_every_nth_and_the_best(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", train__steps=12, evaluate__every=2, evaluate__bigram=False)
    config.checkpoint.every, config.checkpoint.keep, config.checkpoint.keep_every = 2, 2, 6
    config.checkpoint.keep_best = True
    assert run_ranks(pretrain, config, 1) == [0]
    assert list_steps(tmp_path / "run") == [6, 10, 12]


def test_patience_ends_the_run_and_keeps_the_best(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", train__steps=400, evaluate__every=1, evaluate__patience=2)
    config.optimizer.lr, config.schedule.name, config.schedule.warmup_steps = 0.5, "constant", 0
    config.checkpoint.keep_best, config.checkpoint.keep, config.evaluate.bigram = True, 1, False
    assert run_ranks(pretrain, config, 1) == [0]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["eval/validation/loss"] for row in rows if "eval/validation/loss" in row}
    best = min(losses, key=losses.get)
    assert max(losses) == best + 2 < 400
    assert list_steps(tmp_path / "run") == sorted({best, best + 2})
    assert run_ranks(pretrain, config, 1) == [0]  # nothing more to do


# ---------------------------------------------------------------------------------------------------------- refusals


def refused(config, world_size=1):
    """The one error of a run that must end with 2 on every rank."""
    codes, errors = fail_ranks(pretrain, config, world_size)
    assert codes == [2] * world_size
    assert len(set(errors)) == 1
    assert "\n" not in errors[0]
    return errors[0]


def test_missing_data_is_refused(corpus, tmp_path):
    error = refused(small_config(tmp_path / "nowhere", tmp_path / "run"))
    assert "data.path=" in error
    assert "banyan prepare" in error


def test_dataset_without_a_whole_row_is_refused(corpus, tmp_path):
    error = refused(small_config(corpus, tmp_path / "run", data__sequence_length=100_000))
    assert "data.sequence_length" in error


def test_tokenizer_that_doesn_t_fit_the_shards_is_refused(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "data")
    tokenizer = tmp_path / "data" / "train" / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"root', '"r00t') + " ")
    assert "not the tokenizer that the shards were written with" in refused(
        small_config(tmp_path / "data", tmp_path / "run")
    )


def test_validation_set_of_another_tokenizer_is_refused(corpus, tmp_path):
    make_dataset(tmp_path / "other", documents=12, shards=1, tokenizer=make_tokenizer(290))
    config = small_config(corpus, tmp_path / "run", evaluate__every=5)
    from trainer.config import ValidationSet

    config.data.validation = {"other": ValidationSet(str(tmp_path / "other"))}
    assert "written with another tokenizer" in refused(config)


def test_truncated_shard_is_refused_with_its_name(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "data")
    shard = tmp_path / "data" / "train" / "shard-000001.tar"
    os.truncate(shard, shard.stat().st_size - 1024)
    assert "shard-000001.tar" in refused(small_config(tmp_path / "data", tmp_path / "run"), world_size=2)


@pytest.mark.parametrize("damage", ["flipped bit", "garbage"])
def test_damaged_shard_is_refused_before_training(corpus, tmp_path, damage):
    shutil.copytree(corpus, tmp_path / "data")
    shard = tmp_path / "data" / "train" / "shard-000002.tar"
    content = bytearray(shard.read_bytes())
    if damage == "flipped bit":
        content[2000] ^= 1
    else:
        content[:] = os.urandom(len(content))
    shard.write_bytes(content)
    error = refused(small_config(tmp_path / "data", tmp_path / "run"), world_size=2)
    assert "shard-000002.tar" in error


def test_manifest_that_disagrees_is_refused(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "data")
    manifest = tmp_path / "data" / "train" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"][0]["tokens"] += 1
    manifest.write_text(json.dumps(content))
    assert "manifest.json" in refused(small_config(tmp_path / "data", tmp_path / "run"))


def test_vocabulary_below_the_tokenizer_s_is_refused(corpus, tmp_path):
    assert "model.vocab_size=100" in refused(small_config(corpus, tmp_path / "run", model__vocab_size=100))


def test_run_directory_that_can_t_be_made_is_refused(corpus, tmp_path):
    (tmp_path / "file").touch()
    assert "run.dir=" in refused(small_config(corpus, tmp_path / "file" / "run"), world_size=2)


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
    """A run stopped after step 6, with checkpoints of 2, 4 and 6."""
    run_dir = tmp_path_factory.mktemp("saved") / "run"
    config = small_config(corpus, run_dir, train__stop_at=6, checkpoint__every=2)
    assert run_ranks(pretrain, config, 1) == [85]
    return run_dir


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"optimizer__lr": 1e-2}, "optimizer.lr"),
        ({"train__batch_size": 16}, "train.batch_size"),
        ({"schedule__name": "linear"}, "schedule.name"),
        ({"model__hidden_size": 96}, "model.hidden_size"),
        ({"seed": 1}, "seed"),
        ({"data__sequence_length": 16}, "data.sequence_length"),
    ],
)
def test_resume_with_another_configuration_is_refused(corpus, saved, changes, key):
    error = refused(small_config(corpus, saved, checkpoint__every=2, **changes))
    assert f"{key}: " in error
    assert "run.name" in error


def test_resume_on_other_data_is_refused_and_allowed_as_a_new_segment(corpus, saved, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(saved, run_dir)
    make_dataset(tmp_path / "data" / "train", documents=50, seed=8)
    config = small_config(tmp_path / "data", run_dir, checkpoint__every=2)
    assert "run.allow_change=true" in refused(config)
    config.run.allow_change = True
    config.optimizer.lr = 1e-3
    assert run_ranks(pretrain, config, 1) == [0]
    segments = json.loads((run_dir / "history.json").read_text())["segments"]
    assert [segment["first"] for segment in segments] == [0, 6 * 8]


def test_validation_sets_that_are_never_scored_may_be_of_any_size(corpus, tmp_path):
    make_dataset(tmp_path / "data" / "train", documents=50)
    make_dataset(tmp_path / "data" / "validation", documents=2, shards=1)
    config = small_config(tmp_path / "data", tmp_path / "run", train__steps=1, data__sequence_length=512)
    assert run_ranks(pretrain, config, 1) == [0]
    config.evaluate.every = 1
    error = refused(dataclasses.replace(config, run=Run(dir=str(tmp_path / "other"))))
    assert "validation: no shard holds a whole row of 512 tokens" in error
    assert "or evaluate.every=0" in error


def test_a_budget_of_tokens_is_kept_when_the_batch_size_changes(corpus, tmp_path):
    """2,560 tokens in rows of 32: 4 steps of 8 rows, 6 of 4, and what is left, 768, in 12 of 2."""
    run_dir = tmp_path / "run"

    def start(batch_size, stop_at):
        config = small_config(corpus, run_dir, train__steps=None, train__tokens=2560, run__allow_change=True)
        config.train.batch_size, config.train.stop_at = batch_size, stop_at
        return run_ranks(pretrain, config, 1)

    assert [start(8, 4), start(4, 10), start(2, None)] == [[85], [85], [0]]
    rows = read_metrics(run_dir)
    assert (rows[-1]["step"], rows[-1]["tokens"]) == (22, 2560)
    rates = [row["train/lr"] for row in rows]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(3e-3 * 0.1)
    assert "trained 22 steps on 2,560 tokens" in (run_dir / "summary.txt").read_text()
    assert start(2, None) == [0]
    assert start(16, None) == [0]  # nothing is left, in steps of any size
    assert list_steps(run_dir)[-1] == 22


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "no COMPLETE"])
def test_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(corpus, saved, tmp_path, damage):
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(saved, run_dir)
    shutil.copytree(saved, whole)
    newest = run_dir / "checkpoints" / "step-00000006"
    tensors = newest / "rank-00000.safetensors"
    if damage == "cut":
        os.truncate(tensors, tensors.stat().st_size // 2)
    elif damage == "flip":
        content = bytearray(tensors.read_bytes())
        content[-100] ^= 1
        tensors.write_bytes(content)
    elif damage == "missing":
        (newest / "index.safetensors").unlink()
    else:
        (newest / "COMPLETE").unlink()
    assert run_ranks(pretrain, small_config(corpus, run_dir, checkpoint__every=2), 1) == [0]
    assert run_ranks(pretrain, small_config(corpus, whole, checkpoint__every=2), 1) == [0]
    assert_equal_states(run_dir, whole)


def test_run_whose_checkpoints_are_all_damaged_is_refused_and_left_alone(corpus, saved, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(saved, run_dir)
    for step in list_steps(run_dir):
        (run_dir / "checkpoints" / f"step-{step:08d}" / "COMPLETE").unlink()
    assert "No checkpoint of the run is whole" in refused(small_config(corpus, run_dir, checkpoint__every=2))
    assert list_steps(run_dir) == [2, 4, 6]


def pretrain_on_full_disk(config):
    """The verb, on a disk that takes no file above 100 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.stdout = (Path(config.run.dir).parent / "said").open("w")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return pretrain(config)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_disk_that_fills_in_mid_checkpoint_harms_no_earlier_one(corpus, saved, tmp_path, asynchronous):
    run_dir = tmp_path / "run"
    shutil.copytree(saved, run_dir)
    config = small_config(corpus, run_dir, checkpoint__every=2, checkpoint__asynchronous=asynchronous)
    codes, errors = fail_ranks(pretrain_on_full_disk, config)
    assert codes == [1]
    assert errors[0].startswith("StorageError: ")
    assert "step-00000010: not written" in errors[0]  # the run's last
    said = [line for line in (tmp_path / "said").read_text().splitlines() if "not written" in line]
    assert len(said) == 1
    assert "step-00000008: not written" in said[0]
    assert list_steps(run_dir) == [2, 4, 6]
    assert not list((run_dir / "checkpoints").glob("*.partial-*"))
    assert run_ranks(pretrain, config, 1) == [0]


def pretrain_without_privileges(config):
    """The verb, for which permissions count although the tests run as root."""
    import ctypes

    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, data) == 0
    return pretrain(config)


def test_read_only_directories_are_told_in_one_line(corpus, saved, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(saved, run_dir)
    config = small_config(corpus, run_dir, checkpoint__every=2)
    (run_dir / "checkpoints").chmod(0o555)
    codes, errors = fail_ranks(pretrain_without_privileges, config)
    assert codes == [1]
    assert "step-00000010: not written ([Errno 13] Permission denied" in errors[0]
    run_dir.chmod(0o555)
    codes, errors = fail_ranks(pretrain_without_privileges, config)
    assert codes == [1]
    assert "lock: writing isn't permitted: choose another folder" in errors[0]
    assert "\n" not in errors[0]
    run_dir.chmod(0o755)
    (run_dir / "checkpoints").chmod(0o755)
    assert run_ranks(pretrain, config, 1) == [0]


def test_second_run_in_a_directory_is_refused_and_the_first_goes_on(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", train__steps=4000)
    first = start_ranks(pretrain, config, 1)
    wait_for_step(tmp_path / "run", 2)
    error = refused(config, world_size=2)
    assert f"process {first.processes[0].pid} on " in error
    assert "has been running here since" in error
    first.kill()
    config.train.steps = 4
    config.run.allow_change = True
    assert run_ranks(pretrain, config, 1) == [0]  # a dead process of this machine holds nothing
    assert not (tmp_path / "run" / "lock").exists()


def pretrain_with_held_writer(config):
    """The verb, none of whose checkpoint files are written before a file `release` is there."""
    from trainer.checkpoint import job as writing

    write = writing.write_rank

    def hold(*arguments):
        while not (Path(config.run.dir) / "release").exists():
            time.sleep(0.01)
        write(*arguments)

    writing.write_rank = hold
    return pretrain(config)


@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), (2, 3)])
def test_training_goes_on_while_the_writer_is_held_and_the_snapshot_is_of_its_step(corpus, tmp_path, world_size, stage):
    calm, held = tmp_path / "calm", tmp_path / "held"
    changes = {"parallel__zero_stage": stage, "checkpoint__every": 4, "train__steps": 8}
    ranks = start_ranks(pretrain_with_held_writer, small_config(corpus, held, **changes), world_size)
    wait_for_step(held, 7)
    assert list_steps(held) == []
    (held / "release").touch()
    assert ranks.wait() == [0] * world_size
    assert (
        run_ranks(pretrain, small_config(corpus, calm, checkpoint__asynchronous=False, **changes), world_size)
        == [0] * world_size
    )
    for step in (4, 8):
        expected, state = read_state(calm, step), read_state(held, step)
        assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert "perf/checkpoint_stall_seconds" in read_metrics(held)[4]


@pytest.mark.full
@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), (2, 1), (2, 3)])
def test_compiled_blocks_train_as_eager_ones_and_resume_to_the_bit(corpus, tmp_path, world_size, stage):
    config = small_config(corpus, tmp_path / "eager", parallel__zero_stage=stage, evaluate__every=5)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    config.train.compile = True
    for name, stop in (("whole", None), ("halted", 4), ("halted", None)):
        config.run.dir, config.train.stop_at = str(tmp_path / name), stop
        assert run_ranks(pretrain, config, world_size) == [85 if stop else 0] * world_size
    expected = [row["train/loss"] for row in read_metrics(tmp_path / "eager")]
    assert [row["train/loss"] for row in read_metrics(tmp_path / "whole")] == pytest.approx(expected, rel=1e-4)
    assert_equal_states(tmp_path / "whole", tmp_path / "halted")


def test_epochs_are_passes_over_all_rows_and_a_test_set_is_scored_once_at_the_end(corpus, tmp_path):
    from trainer.data.tokens.datasets import count_rows

    data = tmp_path / "data"
    shutil.copytree(corpus / "train", data / "train")
    make_dataset(data / "test", documents=8, shards=1, seed=9)
    run_dir = tmp_path / "run"
    changes = {"train__steps": None, "train__epochs": 0.5, "evaluate__test": True, "evaluate__bigram": False}
    config = small_config(data, run_dir, **changes)
    steps = -(-count_rows(config.data) // 16)  # half of the rows, by eights
    assert run_ranks(pretrain, dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at=2)), 1) == [
        85
    ]
    assert run_ranks(pretrain, config, 2) == [0, 0]
    assert [row["step"] for row in read_metrics(run_dir)] == list(range(1, steps + 1))
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval/test/loss" in row] == [steps]
    assert "test: " in (run_dir / "summary.txt").read_text()


def test_a_test_set_that_is_not_there_is_refused(corpus, tmp_path):
    codes, errors = fail_ranks(pretrain, small_config(corpus, tmp_path / "run", evaluate__test=True))
    assert codes == [2]
    assert "data.test_fraction" in errors[0]
