"""export format=gguf: read by others, the weights are the model's, and the tokens the tokenizer's."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.corpus import make_dataset, make_tokenizer
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.checkpoint.find import find_checkpoint
from trainer.config import Export, ExportSettings, Model
from trainer.data.examples.template import NAMED
from trainer.errors import ConfigError, InputError
from trainer.evaluate.gguf_file import check_gguf, pre_tokenizer_name
from trainer.evaluate.trained_model import load_model
from trainer.verbs import export

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on data whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = dataclasses.replace(make_tokenizer(), chat_template=NAMED["chatml"])
    make_dataset(folder / "data", documents=30, tokenizer=tokenizer.with_special(["<|im_start|>", "<|im_end|>"]))
    sizes = {"model__hidden_size": 64, "model__num_attention_heads": 4, "model__num_key_value_heads": 2}
    config = small_config(folder / "data", folder / "run", train__steps=3, **sizes)
    assert run_ranks(pretrain, config, 1) == [0]
    return folder / "run", config


def write(run_dir, output, numbers):
    config = Export(format="gguf", export=ExportSettings(output=str(output), gguf=numbers))
    config.run.dir = str(run_dir)
    assert export.main(config) == 0
    return output / f"model-{numbers}.gguf"


def test_logits_read_by_hugging_face_are_the_models(run, tmp_path):
    run_dir, config = run
    file = write(run_dir, tmp_path / "out", "f32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config.model.vocab_size = 302
    ours = load_model(config.model, find_checkpoint(run_dir, None), torch.device("cpu"), torch.float32)
    tokens = torch.randint(300, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (theirs.eval()(tokens).logits - ours(tokens)).abs().max() < 1e-4


def test_the_tokenizer_is_in_it(run, tmp_path):
    run_dir, _ = run
    fields = gguf.GGUFReader(write(run_dir, tmp_path / "out", "f16")).fields
    loaded = json.loads((run_dir / "tokenizer" / "tokenizer.json").read_text())
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert [tokens[number] for number in (0, 300, 301)] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert {token: number for number, token in enumerate(tokens[:300])} == loaded["model"]["vocab"]
    assert [fields["tokenizer.ggml.token_type"].contents()[number] for number in (0, 1, 300)] == [3, 1, 3]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in loaded["model"]["merges"]]
    assert fields["tokenizer.ggml.merges"].contents() == merges
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.chat_template"].contents() == NAMED["chatml"]


@pytest.mark.parametrize(("numbers", "worst"), [("f16", 1e-3), ("q8_0", 0.02), ("q4_0", 0.2)])
def test_quantized_matrices_are_near_and_norms_are_exact(run, tmp_path, numbers, worst):
    run_dir, _ = run
    exact, near = (
        {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for tensor in gguf.GGUFReader(write(run_dir, tmp_path / kind, kind)).tensors
        }
        for kind in ("f32", numbers)
    )
    assert exact.keys() == near.keys()
    for name, values in exact.items():
        error = np.abs(values - near[name]).max() / np.abs(values).max()
        assert error == 0 if "norm" in name else error < worst, name


def test_what_llama_cpp_would_take_for_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"model.qk_norm"):
        check_gguf(Model(qk_norm=True))
    with pytest.raises(InputError, match="pre_tokenizer"):
        pre_tokenizer_name({"type": "Whitespace"})
    smollm = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    assert pre_tokenizer_name(smollm) == "smollm"
