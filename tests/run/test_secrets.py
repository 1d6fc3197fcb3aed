"""Secrets that stand in the environment, or are interpolated from there, are in nothing that a command leaves."""

import os
import re
import secrets
import sys

import pytest

from tests.run_ranks import run_ranks
from trainer.machine import credentials
from trainer.run.directory import read_config

NAMES = ("WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
PLANTED = ("LICENCE", "SECRET_EXCLUDE", "PROMPT", "JOB", "FOLDER")
SMALL = """# @package _global_
data:
  sequence_length: 32
  licence: ${oc.env:LICENCE}
  exclude: ["${oc.env:SECRET_EXCLUDE}"]
  include: ["${data.licence}x"]
model: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}
train: {steps: 3, batch_size: 4}
evaluate: {every: 3, bigram: false, prompt: "${oc.env:PROMPT}", prompt_tokens: 4}
deepspeed: {tensorboard: {enabled: false, job_name: "${oc.env:JOB}"}}
checkpoint: {every: 0}
"""


def run_command(order):
    """A command line on a rank, in the folder and with the variables of the order, its output in a file."""
    folder, variables, arguments = order
    os.chdir(folder)
    os.environ.update(variables)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["banyan", *arguments]
    from launch import cli

    return cli.main(arguments)


@pytest.fixture
def planted():
    return {name: f"{name.lower()}-{secrets.token_hex(10)}" for name in (*NAMES, *PLANTED)} | {"WANDB_MODE": "offline"}


def found_in(folder, variables):
    """Files that hold a planted value, or are named by one, with the variable."""
    values = {name: value for name, value in variables.items() if name != "WANDB_MODE"}
    return [
        (str(path.relative_to(folder)), name)
        for path in folder.rglob("*")
        for name, value in values.items()
        if value in path.name or (path.is_file() and value.encode() in path.read_bytes())
    ]


@pytest.fixture
def run(tmp_path, planted, corpus):
    """Runs a command in an empty folder that has the experiment `small`; its exit code."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "small.yaml").write_text(SMALL)
    (tmp_path / "work").mkdir()

    def start(*arguments):
        return run_ranks(run_command, (tmp_path / "work", planted, list(arguments)), 1)[0]

    return start


@pytest.fixture
def small(tmp_path, run, planted, corpus):
    """The folder of a run of the experiment, whose data are named by a variable that is no secret."""
    planted["CORPUS"] = str(corpus)
    assert run("pretrain", *_small(tmp_path)) == 0
    del planted["CORPUS"]
    return tmp_path / "work" / "runs" / "one"


def _small(folder):
    return ("--config-dir", str(folder / "conf"), "experiment=small", "data.path=${oc.env:CORPUS}", "run.name=one")


def test_a_run_leaves_no_secret_in_any_file(tmp_path, small, planted, corpus):
    """Interpolated into text, lists, mappings and by way of other keys; with the keys of W&B, S3 and the Hub around."""
    stored = (small / "config.yaml").read_text()
    for written in ("licence: ${oc.env:LICENCE}", "- ${oc.env:SECRET_EXCLUDE}", "- ${data.licence}x", "${oc.env:JOB}"):
        assert written in stored
    config = read_config(small)
    assert (config.data.path, config.data.licence) == (str(corpus), "${oc.env:LICENCE}")
    assert list(small.glob("wandb/*/*.wandb"))
    assert found_in(tmp_path / "work", planted) == []


@pytest.mark.full
def test_later_commands_on_a_run_leave_no_secret_either(tmp_path, small, run, planted, corpus):
    assert run("data", "at", "runs/one", "step=1") == 0
    assert run("evaluate", "run.dir=runs/one") == 0
    assert run("sync", "runs/one") == 0
    planted["CORPUS"] = str(corpus)
    assert run("pretrain", *_small(tmp_path)) == 0  # finished before: nothing has changed
    del planted["CORPUS"]
    assert found_in(tmp_path / "work", planted) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("pretrain", "data.path=/x/${oc.env:FOLDER}"),
        ("pretrain", "model.init_from=${oc.env:FOLDER}"),
        ("pretrain", "train.steps=${oc.env:LICENCE}"),
        ("pretrain", "run.name=${oc.env:HF_TOKEN}"),
        ("pretrain", "launch=slurm", "launch.sbatch.comment=${oc.env:AWS_SECRET_ACCESS_KEY}"),
        ("pretrain", "checkpoint.dir=s3://${oc.env:AWS_ACCESS_KEY_ID}:${oc.env:AWS_SECRET_ACCESS_KEY}@bucket/x"),
        ("prepare", "data.input=[${oc.env:FOLDER}]", "data.output=out"),
        ("evaluate", "run.dir=${oc.env:FOLDER}"),
    ],
    ids=lambda arguments: arguments[1],
)
def test_a_refusal_tells_no_secret(tmp_path, run, planted, arguments):
    assert run(*arguments) == 2
    output = (tmp_path / "work" / "output.txt").read_text()
    assert output.count("\n") == 1
    assert found_in(tmp_path / "work", planted) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_the_shell_has_put_into_an_override_is_refused(tmp_path, run, planted, name):
    assert run("pretrain", f"deepspeed.note=x{planted[name]}") == 2
    assert f"holds the value of {name}" in (tmp_path / "work" / "output.txt").read_text()
    assert found_in(tmp_path / "work", planted) == []


def test_prepared_data_hold_no_secret(tmp_path, run, planted):
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "one two three {n}"}}\n' for n in range(300)))
    order = (
        "prepare",
        "data.input=../text.jsonl",
        "data.output=out",
        "data.licence=${oc.env:LICENCE}",
        "data.workers=1",
    )
    assert run(*order, "data.tokenizer.train.vocab_size=300") == 0
    assert run(*order, "data.tokenizer.train.vocab_size=300") == 0  # finished before
    assert '"licence": "${oc.env:LICENCE}"' in (tmp_path / "work" / "out" / "train" / "manifest.json").read_text()
    assert found_in(tmp_path / "work", planted) == []


def test_every_job_of_a_multirun_is_checked_before_the_first(tmp_path, run, planted):
    assert run("pretrain", "--multirun", "train.steps=1,2", f"data.licence={planted['HF_TOKEN']}") == 2
    assert run("pretrain", "--multirun", "checkpoint.dir=s3://b/x,s3://KEYKEYKEY:SECRETS@b/x", "train.steps=1,2") == 2
    output = (tmp_path / "work" / "output.txt").read_text()
    assert not re.search("run 1 of|KEYKEYKEY|SECRETS@", output)


def test_text_for_people_is_masked(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "0123456789ab")
    monkeypatch.setenv("MY_KEY_FILE", __file__)
    monkeypatch.setenv("MAX_TOKENS", "100000000")
    text = f"s3://KEY:SECRET@b/x 0123456789ab https://h/x?a=1&sig=abc {__file__} 100000000 s3://b/x@v2"
    assert credentials.masked(text) == (
        f"s3://***@b/x ${{MY_TOKEN}} https://h/x?a=1&sig=*** {__file__} 100000000 s3://b/x@v2"
    )
