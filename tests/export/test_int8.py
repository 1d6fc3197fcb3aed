"""A folder in 8 bits: transformers and generate read it alike, and what it costs in loss is measured."""

import json
import re

import pytest
import torch

from tests.hf_folder import make_folder
from tests.hugging_face import load_model, some_tokens
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config import Export, Generate
from trainer.errors import InputError
from trainer.evaluate.folder_model import load_folder
from trainer.evaluate.loss import Score
from trainer.export.int8 import _in_words
from trainer.run.speaker import open_speaker
from trainer.verbs.export import main

pytest.importorskip("torchao")
CPU = torch.device("cpu")


def export(output, path=None, run_dir=None, **settings):
    config = Export(path=path and str(path), format="int8")
    config.run.dir = run_dir and str(run_dir)
    config.export.output = str(output)
    for key, value in settings.items():
        setattr(config.export, key, value)
    assert main(config) == 0
    return output


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama tied", "qwen2"])
@pytest.mark.parametrize("hf_code", [False, True])
def test_transformers_and_generate_compute_the_same_from_it(tmp_path, kind, hf_code, monkeypatch):
    model = make_folder(tmp_path / "hf", kind)
    export(tmp_path / "out", tmp_path / "hf", shard_bytes=40_000)
    if hf_code:
        monkeypatch.setattr("trainer.evaluate.folder_model.read_architecture", refuse)
    ours, theirs = load_folder(tmp_path / "out", CPU)(some_tokens()), load_model(tmp_path / "out")(some_tokens()).logits
    assert (ours - theirs).abs().max() < 1e-4
    assert 1e-4 < (ours - model(some_tokens()).logits).abs().max() < 2
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors")) for name in ("hf", "out")]
    assert sizes[1] < 0.7 * sizes[0]


def refuse(*_):
    raise InputError("not ours")


def test_the_loss_that_it_costs_is_measured_printed_and_kept(corpus, tmp_path, capsys):
    config = small_config(corpus, tmp_path / "run", train__steps=3)
    assert run_ranks(pretrain, config, 1) == [0]
    export(tmp_path / "out", run_dir=tmp_path / "run", loss_rows=16)
    said = re.search(
        r"loss on validation: ([\d.]+) → ([\d.]+) nats per token \(([+-][\d.]+), ", capsys.readouterr().out
    )
    kept = json.loads((tmp_path / "out" / "int8.json").read_text())["validation"]
    assert float(said[1]) == pytest.approx(kept["before"]["loss"], abs=1e-6)
    assert float(said[3]) == pytest.approx(kept["change"], abs=1e-6)
    assert 0 < abs(kept["change"]) < 0.05
    speaker = open_speaker(Generate().run, Generate().checkpoint, str(tmp_path / "out"))
    assert speaker.context_length == 32


def test_a_loss_of_pairs_is_not_said_to_be_of_tokens():
    before, after = (Score(loss, None, 46, "pairs", scale="nats per pair") for loss in (0.69, 0.7))
    assert _in_words("v", before, after) == "loss on v: 0.690000 → 0.700000 nats per pair (+0.010000, 46 pairs)"


def test_other_quantization_and_parts_that_dont_fit_are_refused(tmp_path):
    make_folder(tmp_path / "hf")
    out = export(tmp_path / "out", tmp_path / "hf")
    config = json.loads((out / "config.json").read_text())
    changed = json.loads((out / "config.json").read_text())
    changed["quantization_config"]["quant_type"]["default"]["_type"] = "Int4WeightOnlyConfig"
    (out / "config.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="isn't one that is read here"):
        load_folder(out, CPU)
    (out / "config.json").write_text(json.dumps(config | {"intermediate_size": 97}))
    with pytest.raises(InputError, match=r"_weight_qdata isn't there, or no \(97, 64\) of int8"):
        load_folder(out, CPU)


def test_a_model_of_experts_is_refused(tmp_path):
    make_folder(tmp_path / "hf", "qwen3_moe")
    with pytest.raises(InputError, match="format=int8 takes the linear layers of a dense model"):
        export(tmp_path / "out", tmp_path / "hf")
    assert not (tmp_path / "out").exists()
