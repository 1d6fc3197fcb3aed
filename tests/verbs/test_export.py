"""A checkpoint of any shape of run becomes a folder that transformers loads, with the logits of our own model."""

import json
import shutil

import pytest
import torch

from tests.hugging_face import load_model, some_tokens
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.states import read_state
from trainer.checkpoint.find import find_checkpoint
from trainer.config import Export
from trainer.errors import ConfigError, InputError
from trainer.evaluate import trained_model as trained
from trainer.run.directory import load_run_tokenizer, read_config
from trainer.verbs.export import main

EXPERTS = {"model__qk_norm": True, "model__num_experts": 4, "model__moe_intermediate_size": 40}
# What is trained, and in which shape: (ranks, ZeRO stage, tensor degree)
RUNS = {
    "llama": ({}, (2, 3, 1)),
    "tied": ({"model__tie_word_embeddings": True}, (2, 1, 2)),
    "experts": (EXPERTS, (2, 1, 2)),
    "biases": ({"model__qkv_bias": True}, (2, 3, 2)),
    "sharded experts": (EXPERTS, (2, 3, 1)),
}


def train(corpus, run_dir, name):
    changes, (ranks, stage, tensor) = RUNS[name]
    config = small_config(
        corpus,
        run_dir,
        train__steps=3,
        checkpoint__every=1,
        parallel__zero_stage=stage,
        parallel__tensor=tensor,
        **changes,
    )
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    return run_dir


@pytest.fixture(scope="module")
def run_dir(corpus, tmp_path_factory):
    return train(corpus, tmp_path_factory.mktemp("export") / "run", "llama")


def verb(run_dir, output=None, **settings):
    config = Export()
    config.run.dir, config.export.output = str(run_dir), str(output) if output else None
    config.checkpoint.step = settings.pop("step", None)
    for key, value in settings.items():
        setattr(config.export, key, value)
    return config


@torch.no_grad()
def our_logits(run_dir, step=None):
    config = read_config(run_dir)
    model = trained.load_model(config.model, find_checkpoint(run_dir, step), torch.device("cpu"), torch.float32)
    return model(some_tokens())


@torch.no_grad()
def their_logits(folder):
    return load_model(folder)(some_tokens()).logits


@pytest.mark.parametrize(
    "name", ["llama", "tied", "experts", *(pytest.param(name, marks=pytest.mark.full) for name in list(RUNS)[3:])]
)
def test_transformers_logits_equal_ours(corpus, run_dir, tmp_path, name):
    run_dir = run_dir if name == "llama" else train(corpus, tmp_path / "run", name)
    assert main(verb(run_dir, tmp_path / "out", shard_bytes=40_000)) == 0
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert (their_logits(tmp_path / "out") - our_logits(run_dir)).abs().max() < 1e-4


def test_step_and_place_can_be_left_out_or_chosen(run_dir, capsys):
    assert main(verb(run_dir)) == 0
    assert str(run_dir / "export" / "step-00000003") in capsys.readouterr().out
    assert main(verb(run_dir, step=2)) == 0
    assert (their_logits(run_dir / "export" / "step-00000002") - our_logits(run_dir, 2)).abs().max() < 1e-4


def test_tokenizer_and_generation_settings_go_along(run_dir, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    main(verb(run_dir, tmp_path / "out"))
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "out"), load_run_tokenizer(run_dir)
    text = "every root finds  water\n"
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert theirs.eos_token_id == ours.end_of_text_id
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == ours.end_of_text_id
    assert load_model(tmp_path / "out").config.eos_token_id == ours.end_of_text_id


def test_average_of_the_last_two_is_their_mean(run_dir, tmp_path):
    main(verb(run_dir, tmp_path / "out", average_last=2))
    weights = dict(load_model(tmp_path / "out").named_parameters())
    states = [read_state(run_dir, step) for step in (2, 3)]
    for (name, kind), last in states[1].items():
        if kind == "fp32":
            mean = (states[0][name, kind].double() + last.double()) / 2
            assert torch.equal(weights[name], mean.float())


def test_more_checkpoints_than_there_are_cannot_be_averaged(run_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"export.average_last=3.*use 2"):
        main(verb(run_dir, tmp_path / "out", average_last=3, step=2))
    assert not (tmp_path / "out").exists()


def test_bf16_is_the_rounded_weights(run_dir, tmp_path):
    from safetensors.torch import load_file

    main(verb(run_dir, tmp_path / "out", dtype="bf16"))
    written, state = load_file(tmp_path / "out" / "model.safetensors"), read_state(run_dir)
    assert all(torch.equal(tensor, state[name, "fp32"].bfloat16()) for name, tensor in written.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_nothing_is_written_over(run_dir, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match=r"export.output=.*out"):
        main(verb(run_dir, tmp_path / "out"))
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
    (tmp_path / "out" / "mine.txt").unlink()
    assert main(verb(run_dir, tmp_path / "out")) == 0


def test_failed_export_leaves_nothing(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.verbs.export.mean_of", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(verb(run_dir, tmp_path / "deep" / "out"))
    assert list((tmp_path / "deep").iterdir()) == []


def test_another_tokenizer_than_the_run_s_isnt_exported(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    tokenizer = copy / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(InputError, match="not the tokenizer that step-"):
        main(verb(copy, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_card_is_of_this_run_and_of_these_weights(run_dir, tmp_path):
    run_dir = shutil.copytree(run_dir, tmp_path / "copy")
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tokens": 512, "eval/validation/loss": 5.9}\n')
        file.write('{"step": 3, "tokens": 768, "eval/validation/loss": 5.5, "eval/validation/bits_per_byte": 2.25}\n')
        group = {
            f"eval/validation/source/web|1/{name}_per_byte": value for name, value in (("bits", 2), ("tokens", 0.3))
        }
        file.write(json.dumps({"step": 3, "tokens": 768, **group}) + "\n")
    main(verb(run_dir, tmp_path / "out", licence="apache-2.0"))
    text = (tmp_path / "out" / "README.md").read_text()
    facts = json.loads((run_dir / "facts.json").read_text())
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "| Steps | 3 |" in text
    assert "2 ranks on cpu" in text
    assert "ZeRO stage 3, tensor 1" in text
    (data,) = facts["data"]
    for fingerprint in data["fingerprints"].values():
        assert fingerprint in text
    assert "| texts | not stated | not stated | 1 |" in text
    assert "| validation | 5.5000 | 244.69 | 2.2500 |" in text
    assert "| validation | source | web\\|1 | 2.0000 | 0.3000 |" in text
    main(verb(run_dir, tmp_path / "mean", average_last=2))
    assert "Of these weights: not measured." in (tmp_path / "mean" / "README.md").read_text()


def test_results_of_tasks_are_in_the_card_and_broken_ones_are_not(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    folder = copy / "evaluations" / "step-00000003"
    folder.mkdir(parents=True)
    good = {"task": "arc_easy", "version": "1", "metric": "acc", "value": 0.25, "stderr": 0.1, "n": 20, "step": 3}
    broken = [
        {**good, "value": "high"},
        {**good, "step": 2, "value": 0.99},
        7,
        {"task": ["x"]},
        {**good, "value": None},
    ]
    (folder / "results.json").write_text(json.dumps([*broken, good]))
    main(verb(copy, tmp_path / "out"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.count("arc\\_easy") == 1
    assert "| acc | 0.2500 | 0.1000 |  | 20 |" in text
    for content in ("{", "[" * 5000, '{"a": 1}'):
        (folder / "results.json").write_text(content)
        (copy / "facts.json").write_text(content)
        (copy / "environment.json").write_text(content)
        shutil.rmtree(tmp_path / "out")
        assert main(verb(copy, tmp_path / "out")) == 0
        assert "doesn't say what it was trained on" in (tmp_path / "out" / "README.md").read_text()
