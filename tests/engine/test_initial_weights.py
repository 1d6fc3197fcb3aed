"""A new run begins with a folder's weights, at any shape; the same command goes on without reading them again."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from launch.compose import compose
from tests.corpus import make_dataset, make_tokenizer
from tests.hugging_face import load_model, save_model
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import read_state
from trainer.config import Export
from trainer.data.tokens.datasets import open_training, weights_of
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.order import Order, extend
from trainer.engine.initial_weights import check_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face.init_folder import find_init_folder
from trainer.objective.causal import to_batch

# What is begun with, and in which shape: (ranks, ZeRO stage, tensor degree)
BEGINNINGS = [("llama tied", (1, 0, 1)), ("llama tied", (2, 3, 1)), ("llama tied", (2, 3, 2)), ("qwen2", (2, 3, 2))]


def from_folder(corpus, run_dir, folder, shape=(1, 0, 1), **changes):
    """A run of two steps that begins with `folder`, with the folder's sizes."""
    ranks, stage, tensor = shape
    config = small_config(corpus, run_dir, train__steps=2, parallel__zero_stage=stage, parallel__tensor=tensor)
    for name, value in {"init_from": str(folder), **find_init_folder(str(folder)).architecture}.items():
        setattr(config.model, name, value)
    for name, value in changes.items():
        setattr(config.model, name, value)
    return config, ranks


def first_batch(config):
    training = open_training(config.data)
    rows = [dataset.rows for dataset in training]
    order = Order(rows, extend([], first=0, rows=rows, weights=weights_of(config.data)), seed=config.seed, window=2)
    by_fingerprint = {dataset.manifest.fingerprint: dataset for dataset in training}
    places = order.places(0, config.train.batch_size)
    rows = np.stack([by_fingerprint[p.fingerprint].row(p.shard, p.row) for p in places])
    return to_batch(rows, positions=np.arange(len(rows)), end_of_text=None)


@torch.no_grad()
def their_loss(model, config):
    batch = first_batch(config)
    return F.cross_entropy(model(batch.inputs).logits.flatten(0, 1), batch.targets.flatten()).item()


@pytest.mark.parametrize(("kind", "shape"), BEGINNINGS)
def test_first_loss_is_that_of_transformers(corpus, tmp_path, kind, shape):
    theirs = save_model(tmp_path / "model", kind, shard="30KB")
    config, ranks = from_folder(corpus, tmp_path / "run", tmp_path / "model", shape)
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "run")]
    assert losses[0] == pytest.approx(their_loss(theirs, config), rel=1e-5)
    assert losses[1] != losses[0]


def test_first_loss_with_experts_but_for_their_penalties(corpus, tmp_path):
    theirs = save_model(tmp_path / "model", "qwen3_moe")
    without = {"router_aux_loss_coef": 0.0, "router_z_loss_coef": 0.0}
    config, ranks = from_folder(corpus, tmp_path / "run", tmp_path / "model", (2, 3, 2), **without)
    assert run_ranks(pretrain, config, ranks) == [0, 0]
    assert read_metrics(tmp_path / "run")[0]["train/loss"] == pytest.approx(their_loss(theirs, config), rel=1e-5)


def test_out_and_in_again_is_the_same_model(corpus, tmp_path):
    """A run of ours, its newest checkpoint and its export begin runs with one and the same first loss."""
    from trainer.verbs.export import main as export

    shape = {"parallel__zero_stage": 3}
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "first", train__steps=2, **shape), 2) == [0, 0]
    out = Export()
    out.run.dir = str(tmp_path / "first")
    assert export(out) == 0
    origins = ["first", "first/checkpoints/step-00000002", "first/export/step-00000002"]
    for number, origin in enumerate(origins):
        config, ranks = from_folder(corpus, tmp_path / f"run{number}", tmp_path / origin)
        assert run_ranks(pretrain, config, ranks) == [0]
    losses = [read_metrics(tmp_path / f"run{number}")[0]["train/loss"] for number in range(3)]
    assert losses[0] == losses[1] == losses[2]
    expected = their_loss(load_model(tmp_path / origins[2]), small_config(corpus, tmp_path / "first"))
    assert losses[0] == pytest.approx(expected, rel=1e-5)


def test_bf16_run_begins_with_unrounded_weights(corpus, tmp_path):
    theirs = save_model(tmp_path / "model", "llama")
    config, ranks = from_folder(corpus, tmp_path / "run", tmp_path / "model", (2, 1, 1))
    config.train.precision, config.optimizer.lr, config.optimizer.weight_decay = "bf16", 1e-12, 0.0
    assert run_ranks(pretrain, config, ranks) == [0, 0]
    state = read_state(tmp_path / "run")
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(state[name, "fp32"], parameter.detach(), rtol=0, atol=1e-7)


def test_run_goes_on_although_the_folder_is_gone(corpus, tmp_path):
    save_model(tmp_path / "model", "llama")
    config, _ = from_folder(corpus, tmp_path / "run", tmp_path / "model")
    config.train.stop_at = 1
    assert run_ranks(pretrain, config, 1) == [85]
    shutil.rmtree(tmp_path / "model")
    typed = [f"model.init_from={tmp_path / 'model'}", f"run.dir={tmp_path / 'run'}"]
    assert compose("pretrain", typed).model.hidden_size == config.model.hidden_size
    config.train.stop_at = None
    assert run_ranks(pretrain, config, 1) == [0]
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2]


def refuse(config):
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [2]
    return errors[0]


def test_model_that_conflicts_with_the_folder_is_refused(corpus, tmp_path):
    save_model(tmp_path / "model", "llama")
    config, _ = from_folder(corpus, tmp_path / "run", tmp_path / "model", rope_theta=77.0)
    assert "model.rope_theta=77.0" in refuse(config)


def test_other_tokenizer_is_refused_and_another_writing_of_the_same_is_not(corpus, tmp_path):
    save_model(tmp_path / "model", "llama")
    tokenizer = corpus / "train" / "tokenizer" / "tokenizer.json"
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.read_text())))
    config, _ = from_folder(corpus, tmp_path / "run", tmp_path / "model")
    assert run_ranks(pretrain, config, 1) == [0]
    make_dataset(tmp_path / "other", documents=30, tokenizer=make_tokenizer(280))
    config, _ = from_folder(tmp_path / "other", tmp_path / "run2", tmp_path / "model")
    assert f"data.tokenizer.path={tmp_path / 'model'}" in refuse(config)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": {"type": "BPE", "vocab": 3}}', "\ud800"])
def test_broken_tokenizer_of_a_folder_is_named(corpus, tmp_path, text):
    save_model(tmp_path, "llama")
    (tmp_path / "tokenizer.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"tokenizer\.json: (no|not a) tokenizer"):
        check_tokenizer(find_init_folder(str(tmp_path)), read_manifest(corpus / "train"), key="model.init_from")


STORED = {
    "no section": {"steps": 1},
    "a list": [],
    "a string": "x",
    "a section that is none": {"model": "x"},
    "layers": {"model": {"num_hidden_layers": 10**9}},
    "a word for a number": {"model": {"hidden_size": "wide"}},
    "a number for a flag": {"model": {"qk_norm": 3}},
    "not a number": {"model": {"rope_theta": float("nan")}},
    "nothing": {"model": {"hidden_size": None}},
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
@pytest.mark.parametrize("file", ["config.yaml", "state.json"])
def test_broken_description_of_our_own_model_is_named(tmp_path, file, stored):
    content = json.dumps({"config": stored} if file == "state.json" else stored)
    (tmp_path / file).write_text(content.replace("NaN", ".nan") if file == "config.yaml" else content)
    with pytest.raises(InputError, match=f"{file}: .*restore|{file}: .*mend|{file}: can't be read") as caught:
        find_init_folder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_command_line_takes_sizes_from_the_folder_unless_told_otherwise(tmp_path):
    save_model(tmp_path / "some model", "qwen3")
    given = f"model.init_from={tmp_path / 'some model'}"
    model = compose("pretrain", [given]).model
    assert (model.name, model.hidden_size, model.num_hidden_layers, model.head_dim) == ("some-model", 48, 2, 12)
    assert model.qk_norm
    assert compose("pretrain", [given, "model.hidden_size=64"]).model.hidden_size == 64  # refused by the verb
    assert compose("pretrain", [given, "model=llama_125m"]).model.hidden_size == 768


def test_folder_of_no_model_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="init_from="):
            compose("pretrain", [f"model.init_from={folder}"])
