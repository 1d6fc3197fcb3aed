"""A long-context stage: weights that learnt short rows go on with stretched positions, and others read them so."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from launch.cli import main as banyan
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.data.tokens.datasets import open_training
from trainer.errors import ConfigError
from trainer.model.hugging_face.init_folder import find_init_folder, require_fit

YARN = {"type": "yarn", "factor": 2, "original_max_position_embeddings": 32}


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("short") / "run"
    assert run_ranks(pretrain, small_config(corpus, run_dir, train__steps=4), 1) == [0]
    return run_dir


def longer(corpus, base, run_dir, **changes):
    length = {"data__sequence_length": 64, "train__steps": 1, "schedule__warmup_steps": 0, "optimizer__lr": 1e-9}
    return small_config(corpus, run_dir, model__init_from=str(base), model__rope_scaling=YARN, **length, **changes)


def test_rows_of_another_length_have_the_losses_that_transformers_gives_them(corpus, base, tmp_path):
    config = longer(corpus, base, tmp_path / "run", model__extend_context=True)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    folder = tmp_path / "hf"
    assert banyan(["export", f"run.dir={tmp_path / 'run'}", f"export.output={folder}"]) == 0
    written = json.loads((folder / "config.json").read_text())
    assert written["rope_scaling"] == {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
    assert written["max_position_embeddings"] == 64
    from trainer.run.provenance import open_order

    order = open_order(tmp_path / "run")
    (dataset,) = open_training(config.data)
    rows = [dataset.row(place.shard, place.row).tolist() for place in order.order.places(0, 8)]
    tokens = torch.tensor(rows)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(tokens[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert read_metrics(tmp_path / "run")[0]["train/loss"] == pytest.approx(float(expected), rel=1e-4)
    assert find_init_folder(str(folder)).architecture["rope_scaling"] == written["rope_scaling"]


def test_other_positions_and_longer_rows_must_be_meant(corpus, base, tmp_path):
    origin = find_init_folder(str(base))
    config = longer(corpus, base, tmp_path / "run")
    config.model.vocab_size = origin.architecture["vocab_size"]
    with pytest.raises(ConfigError, match=r"model.rope_scaling=.*or model.extend_context=true to train on"):
        require_fit(config.model, origin, 64)
    config.model.extend_context = True
    require_fit(config.model, origin, 64)
    config.model.hidden_size = 96
    with pytest.raises(ConfigError, match=r"model.hidden_size=96"):
        require_fit(config.model, origin, 64)
