"""A GGUF file holds the model: logits and ids are Hugging Face's, as transformers and llama.cpp itself read it."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from tests.corpus import write_texts
from tests.export.llama_cpp import LlamaCpp
from tests.hf_folder import WIDE, make_folder
from tests.hugging_face import load_model, some_tokens
from trainer.config import Export
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.export.gguf_tensors import rope_factors
from trainer.export.gguf_vocabulary import LLAMA_3, QWEN_2, read_vocabulary
from trainer.verbs.export import main

gguf = pytest.importorskip("gguf")
needs_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp not installed")
STRETCHED = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
TEXTS = [
    "def main(argv):\n    return [x**2 for x in range(10)]  # 1234567\n",
    "森林里的树，在雨中生长。第12章",
    "It's they'll WE'RE don't  two  blanks\t\ttabs \r\n\r\n",
    "cây đa 🌳👩‍👩‍👧 e\u0301 ½ ²",
    "<|endoftext|> and <|im_start|>",
    " leading and trailing ",
]


def export(folder, output, kind="f16", form="gguf"):
    config = Export(path=str(folder), format=form)
    config.export.output, config.export.gguf = str(output), kind
    assert main(config) == 0
    return output


def fields(file):
    """What the file says, by key."""
    return {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}


@torch.no_grad()
def rounded(model, kind):
    """The model with the numbers that such a file can hold."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            continue
        asked = "q8_0" if kind == "q4_0" and ("embed" in name or "lm_head" in name) else kind
        number = gguf.GGMLQuantizationType[asked.upper()]
        values = gguf.quants.dequantize(gguf.quants.quantize(parameter.numpy(), number), number)
        parameter.copy_(torch.from_numpy(np.array(values)).view(parameter.shape))
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        *(("llama", numbers) for numbers in ("f32", "f16", "q8_0", "q4_0")),
        *((kind, "f16") for kind in ("llama tied", "mistral", "qwen2", "qwen3")),
    ],
)
def test_logits_are_those_of_the_weights_that_the_file_can_hold(tmp_path, kind, numbers):
    from transformers import AutoModelForCausalLM

    model = make_folder(
        tmp_path / "hf", kind, **({"head_dim": 128} if kind == "qwen3" else {})
    )  # the only one it reads
    file = export(tmp_path / "hf", tmp_path / "out", numbers) / f"model-{numbers}.gguf"
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    assert (theirs(some_tokens()).logits - rounded(model, numbers)(some_tokens()).logits).abs().max() < 1e-4


def test_nothing_is_left_to_a_readers_guess(tmp_path):
    """Sizes of heads, rotary base, epsilon, whether texts begin with a token, kinds of tokens, and the template."""
    make_folder(tmp_path / "hf", "llama tied", rope_parameters={"rope_type": "default", "rope_theta": 5e5}, head_dim=32)
    file = export(tmp_path / "hf", tmp_path / "out", "q8_0") / "model-q8_0.gguf"
    found = fields(file)
    assert found["llama.rope.dimension_count"] == found["llama.attention.key_length"] == 32
    assert found["llama.attention.value_length"] == 32
    assert found["llama.rope.freq_base"] == 5e5
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-4)
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (False, False)
    tokenizer = load_tokenizer(tmp_path / "hf")
    assert found["tokenizer.ggml.eos_token_id"] == tokenizer.end_of_text_id
    assert found["tokenizer.ggml.eot_token_id"] == tokenizer.special_ids["<|im_end|>"]
    types = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    assert (types["<|im_end|>"], types["<|endoftext|>"], types["e"]) == (3, 3, 1)
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert "output.weight" not in kinds
    assert {kinds["blk.0.attn_norm.weight"], kinds["output_norm.weight"]} == {"F32"}
    assert {kinds["blk.0.attn_q.weight"], kinds["token_embd.weight"]} == {"Q8_0"}


def test_a_beginning_that_hugging_faces_tokenizer_adds_is_said(tmp_path):
    make_folder(tmp_path / "hf")
    path = tmp_path / "hf" / "tokenizer.json"
    loaded = json.loads(path.read_text())
    begin = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    loaded["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|endoftext|>": begin},
    }
    path.write_text(json.dumps(loaded))
    found = fields(export(tmp_path / "hf", tmp_path / "out") / "model-f16.gguf")
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert found["tokenizer.ggml.bos_token_id"] == 0


def test_rows_that_are_no_whole_blocks_are_f16(tmp_path, capsys):
    make_folder(tmp_path / "hf", hidden_size=48, head_dim=12)
    file = export(tmp_path / "hf", tmp_path / "out", "q8_0") / "model-q8_0.gguf"
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.0.ffn_down.weight"]) == ("F16", "Q8_0")
    assert "matrices in F16" in capsys.readouterr().out


def test_rows_of_the_embedding_without_a_token_are_filled_up(tmp_path):
    make_folder(tmp_path / "hf", vocab_size=304)
    found = fields(export(tmp_path / "hf", tmp_path / "out") / "model-f16.gguf")
    assert len(found["tokenizer.ggml.tokens"]) == 304
    assert found["tokenizer.ggml.token_type"][-4:] == [5] * 4


def test_llama_3s_rotary_factors_are_those_of_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = STRETCHED | {"original_max_position_embeddings": 64}  # waves of each kind: left, stretched, between
    config = LlamaConfig(**WIDE, rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, **rope})
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1e4 ** -(torch.arange(0, 16, 2) / 16)
    factors = rope_factors(rope, 1e4, 16).load()
    assert torch.allclose(plain / factors, stretched, rtol=1e-5)
    assert factors.min() == 1
    assert factors.max() == 8


# ------------------------------------------------------------------------------------------------- tokenizers


def tokenizer_with(folder, pre_tokenizer, *, ignore_merges=False):
    """A tokenizer trained with a way to split texts."""
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, trainers

    engine = Engine(models.BPE(ignore_merges=ignore_merges))
    engine.pre_tokenizer, engine.decoder = pre_tokenizer, decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator([*write_texts(100, seed=3), *TEXTS * 3], trainer)
    folder.mkdir()
    engine.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def splits():
    """llama.cpp's names with the steps of `tokenizers` that are the same."""
    from tokenizers import Regex, pre_tokenizers

    whole, rest = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel(False, use_regex=False)

    def split(pattern):
        return pre_tokenizers.Split(Regex(pattern), "isolated")

    sequence = pre_tokenizers.Sequence
    return {
        "gpt-2": whole,
        "smollm": sequence([pre_tokenizers.Digits(individual_digits=True), whole]),
        "llama-bpe": sequence([split(LLAMA_3), rest]),
        "qwen2": sequence([split(QWEN_2), rest]),
    }


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
@needs_llama_cpp
def test_llama_cpp_gives_the_ids_of_the_tokenizer(tmp_path, pre):
    tokenizer = tokenizer_with(tmp_path / "tokenizer", splits()[pre], ignore_merges=pre == "llama-bpe")
    make_folder(tmp_path / "hf", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size)
    file = export(tmp_path / "hf", tmp_path / "out") / "model-f16.gguf"
    assert fields(file)["tokenizer.ggml.pre"] == pre
    server = LlamaCpp(file)
    for text in TEXTS:
        assert server.ids(text) == tokenizer.encode(text), text
        assert server.ids(text, rendered=True) == tokenizer.encode_rendered(text), text


def test_a_way_to_split_that_llama_cpp_lacks_is_refused(tmp_path):
    from tokenizers import pre_tokenizers

    ours = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(False)])
    tokenizer = tokenizer_with(tmp_path / "tokenizer", ours)
    with pytest.raises(InputError, match=r"llama.cpp splits texts in ways of its own list"):
        read_vocabulary(tokenizer, 700, beginning=0)


@torch.no_grad()
@needs_llama_cpp
@pytest.mark.parametrize("kind", ["llama", "llama 3", "llama linear", "qwen2 yarn", "llama yarn", "qwen2", "qwen3"])
def test_llama_cpp_continues_as_hugging_face_does(tmp_path, kind):
    kind, _, stretched = kind.partition(" ")
    rope = {
        "3": {"rope_type": "llama3", **STRETCHED},
        "linear": {"rope_type": "linear", "factor": 4.0},
        "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 2.0},
    }.get(stretched)
    make_folder(tmp_path / "hf", kind, **({"rope_parameters": rope | {"rope_theta": 1e4}} if rope else {}))
    file = export(tmp_path / "hf", tmp_path / "out", "f32") / "model-f32.gguf"
    model, tokens = load_model(tmp_path / "hf"), some_tokens(1, 12)[0].tolist()
    server, compared = LlamaCpp(file), 0
    for _ in range(10):
        expected, found = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1), server.likeliest(tokens, 5)
        assert all(abs(expected[token] - value) < 1e-3 for token, value in found.items())
        assert next(iter(found), int(expected.argmax())) == int(expected.argmax())
        compared += bool(found)
        tokens.append(int(expected.argmax()))
    assert compared > 4


# -------------------------------------------------------------------------------------------------- bad input


def test_what_no_file_can_describe_is_refused(tmp_path):
    make_folder(tmp_path / "hf", "qwen3_moe")
    with pytest.raises(InputError, match=r"format=gguf: a qwen3_moe isn't written here"):
        export(tmp_path / "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    make_folder(tmp_path / "hf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"needs the package gguf.*banyan-train\[adapt\]"):
        export(tmp_path / "hf", tmp_path / "out")
