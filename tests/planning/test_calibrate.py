"""plan.calibrate: a run's own speed and memory, and one line where a folder has none."""

import re

import pytest

from launch.compose import compose
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.errors import ConfigError
from trainer.verbs.plan import main

SIZES = ["data.sequence_length=32", "train.batch_size=8", "train.micro_batch_size=2", "train.precision=fp32"]
SIZES += ["model.hidden_size=48", "model.intermediate_size=96", "model.num_hidden_layers=2"]
SIZES += ["model.num_attention_heads=4", "model.num_key_value_heads=2", "parallel.zero_stage=0"]


@pytest.fixture(scope="module")
def run_dir(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate") / "run"
    config = small_config(corpus, folder, train__steps=12, checkpoint__every=0)
    assert run_ranks(pretrain, config, 1) == [0]
    return folder


def plan(*arguments):
    return main(compose("plan", list(arguments)))


def test_the_runs_own_layout_takes_the_time_that_it_took(run_dir, corpus, capsys):
    assert plan(*SIZES, f"data.path={corpus}", f"plan.calibrate={run_dir}", "plan.devices=1") == 0
    text = capsys.readouterr().out
    measured = float(re.search(r"calibrated .*: 1 × cpu, \d+ rows of ([\d.]+) s a step", text)[1])
    planned = float(re.search(r"time +([\d.e-]+) s a step", text)[1])
    assert planned == pytest.approx(measured, rel=0.01)
    beside = float(re.search(r"([\d.]+) GB beside tensors", text)[1])
    assert 0.05 < beside < 3
    assert re.search(rf"device runtime +{beside:.3f}", text)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("absent", "there is no such folder"),
        (".", "isn't the directory of a run"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, folder, message):
    with pytest.raises(ConfigError, match=f"^plan.calibrate={tmp_path / folder}: {message}"):
        plan(*SIZES, "model.vocab_size=512", f"plan.calibrate={tmp_path / folder}")


def test_another_device_and_too_few_rows_are_refused(run_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"it ran on cpu, and the plan is for H100"):
        plan(*SIZES, "model.vocab_size=512", f"plan.calibrate={run_dir}", "plan.device=h100")
    short = tmp_path / "short"
    short.mkdir()
    for path in run_dir.iterdir():
        if path.is_file():
            lines = path.read_bytes().splitlines(keepends=True)
            (short / path.name).write_bytes(b"".join(lines[:1]) if path.name == "metrics.jsonl" else path.read_bytes())
    with pytest.raises(ConfigError, match=r"fewer than 3 rows"):
        plan(*SIZES, "model.vocab_size=512", f"plan.calibrate={short}")
