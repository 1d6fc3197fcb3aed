"""Launchers and ranks mean the same run directory, named or not: what the data decide is in both their names."""

import os
import subprocess
import sys

import pytest

from launch.compose import compose
from launch.slurm.launcher import folder_of_job
from launch.verbs import VERBS
from tests.corpus import make_dataset, make_tokenizer
from tests.run_ranks import pretrain, run_ranks
from trainer.data.tokens.datasets import open_training, widest
from trainer.run.directory import locate
from trainer.run.launched_folder import locate_launched
from trainer.run.open import fit_to_data

TINY = (
    *("model.hidden_size=32", "model.intermediate_size=64", "model.num_hidden_layers=1", "model.num_attention_heads=2"),
    *("model.num_key_value_heads=2", "data.sequence_length=32", "data.shuffle_shards=2", "train.steps=1"),
    *("train.batch_size=2", "train.micro_batch_size=2", "train.precision=fp32", "evaluate.every=0"),
    *("evaluate.prompt=null", "track.wandb.mode=disabled", "checkpoint.every=0"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "small", tokenizer=make_tokenizer(), documents=12, shards=1)
    make_dataset(folder / "other", tokenizer=make_tokenizer(), documents=12, shards=1, seed=2)
    return folder


def test_ranks_go_where_the_launchers_said(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = compose("pretrain", [f"data.path={data / 'small'}", *TINY])
    told = folder_of_job(VERBS["pretrain"], config)
    assert told == locate_launched(config) != locate(config)
    assert run_ranks(pretrain, config, 1) == [0]
    assert [folder.resolve() for folder in (tmp_path / "runs").iterdir()] == [told.resolve()]
    assert (told / "summary.txt").is_file()


@pytest.mark.parametrize(
    "typed",
    [
        ["data.path=DATA/small"],
        ["data.path=DATA/small", "model.vocab_size=1000"],
        ["data.path=DATA/small", "run.name=called"],
        ["data.path=DATA/small", "run.dir=DATA/there"],
        ["data.train.one.path=DATA/small", "data.train.two.path=DATA/other"],
    ],
)
def test_a_name_is_the_ranks_whatever_was_typed(data, typed):
    config = compose("pretrain", [each.replace("DATA", str(data)) for each in typed])
    training = open_training(config.data, config.seed)
    assert locate_launched(config) == locate(fit_to_data(config, config.model, training, []))
    assert widest(training).manifest.vocab_size == 300


def test_data_that_cant_be_seen_from_here_are_no_hindrance_and_torch_isnt_needed(data, tmp_path):
    unseen = compose("pretrain", [f"data.path={tmp_path}"])
    assert locate_launched(unseen) == locate(unseen)
    source = (
        "import sys; from trainer.config import Pretrain; from trainer.run.launched_folder import locate_launched\n"
        f"config = Pretrain(); config.data.path = {str(data / 'small')!r}; print(locate_launched(config).name)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", source], check=True, text=True, capture_output=True, env={**os.environ}
    )
    assert done.stdout.strip()
