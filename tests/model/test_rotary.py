"""Stretched rotary positions are transformers' own to the last bit, written for it and read from it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.model.test_decoder import built, small, some_tokens
from trainer.config.rope import check_rope, settle_scaling
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face.architecture import read_architecture, write_architecture
from trainer.model.rotary import rotary_frequencies, rotary_tables

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SCALINGS = [
    {"type": "linear", "factor": 4},
    {"type": "linear", "factor": 2.5, "original_max_position_embeddings": 32},
    {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "beta_fast": 16, "beta_slow": 2},
    {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 100, "truncate": False},
    {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 100, "attention_factor": 0.75},
    {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 1.0},
    {"type": "llama3", "factor": 8.0, **LLAMA3},
    {"rope_type": "llama3", "factor": 32.0, **LLAMA3 | {"original_max_position_embeddings": 8192}},
]


@pytest.mark.parametrize("theta", [10000.0, 5e5])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("given", SCALINGS)
def test_frequencies_are_those_of_transformers_to_the_last_bit(given, head_dim, theta):
    scaling = settle_scaling(given)
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=4096,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    theirs, their_factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    ours, factor = rotary_frequencies(head_dim, theta, scaling, torch.device("cpu"))
    assert torch.equal(ours, theirs)
    assert factor == their_factor


def test_plain_positions_are_what_they_were():
    frequencies, factor = rotary_frequencies(16, 1e4, {}, torch.device("cpu"))
    assert torch.equal(frequencies, 1.0 / 1e4 ** (torch.arange(0, 16, 2, dtype=torch.float32) / 16))
    assert factor == 1.0
    assert settle_scaling({}) == settle_scaling({"rope_type": "default"}) == {}


@torch.no_grad()
@pytest.mark.parametrize("given", [SCALINGS[0], SCALINGS[2], SCALINGS[5], SCALINGS[7]])
@pytest.mark.parametrize("form", ["both", "transformers 4", "transformers 5"])
def test_logits_of_what_is_written_are_transformers(tmp_path, given, form):
    """Written, read by transformers in either form, and read back."""
    model = small(vocab_size=131, rope_scaling=given, tie_word_embeddings=True)
    config = write_architecture(model, context_length=96, end_of_text=0, dtype="float32")
    if form == "transformers 4":
        del config["rope_parameters"]
    if form == "transformers 5":
        del config["rope_scaling"], config["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_architecture(config, tmp_path / "config.json")
    assert (found["rope_scaling"], found["rope_theta"]) == (settle_scaling(given), model.rope_theta)
    ours = built(model).eval()
    theirs = AutoModelForCausalLM.from_config(LlamaConfig(**config)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    tokens = some_tokens(time=96)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=2e-4, atol=2e-5)
    plain = built(small(vocab_size=131, tie_word_embeddings=True)).eval()
    assert not torch.allclose(ours(tokens), plain(tokens), rtol=1e-2, atol=1e-2)


def test_positions_that_yarn_was_made_for_are_written_down():
    """transformers before 5 takes its factor from them, not from `factor`."""
    given = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    written = write_architecture(small(rope_scaling=given), context_length=64, end_of_text=0, dtype="float32")
    assert written["max_position_embeddings"] == 128


def test_tables_are_multiplied_by_the_attention_factor():
    scaling = settle_scaling(SCALINGS[5])
    cosines, sines = rotary_tables(torch.arange(8)[None], 16, 1e4, scaling)
    assert torch.allclose(cosines.square() + sines.square(), torch.tensor(0.75**2))


def test_what_a_file_leaves_out_is_its_longest_row():
    rope = {"rope_type": "yarn", "factor": 4.0}
    config = write_architecture(small(), context_length=64, end_of_text=0, dtype="float32") | {"rope_parameters": rope}
    assert read_architecture(config, Path("config.json"))["rope_scaling"]["original_max_position_embeddings"] == 64


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": "ntk", "factor": 2}, "model.rope_scaling.type is ntk: give one of linear, yarn, llama3."),
        ({"factor": 2}, "model.rope_scaling.type is missing"),
        ({"type": "yarn", "rope_type": "linear", "factor": 2}, "type is linear and yarn"),
        ({"type": "linear"}, "model.rope_scaling.factor is not set, which type=linear needs."),
        ({"type": "yarn", "factor": 2}, "original_max_position_embeddings is not set"),
        ({"type": "linear", "factor": 0.5}, "factor=0.5: must be a number of at least 1."),
        ({"type": "linear", "factor": "4"}, "factor=4: must be a number"),
        ({"type": "linear", "factor": float("nan")}, "factor=nan: must be a number"),
        ({"type": "linear", "factor": 4, "beta_fast": 3}, "beta_fast: not known of type=linear"),
        ({"type": "yarn", "factor": 4, "original_max_position_embeddings": 2.5}, "must be a whole number"),
        ({"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "truncate": 1}, "must be true or false"),
        ({"type": "yarn", "factor": 4, "original_max_position_embeddings": 16}, "use model.rope_scaling.factor=8"),
    ],
)
def test_what_is_no_scaling_is_refused_in_a_line(given, said):
    with pytest.raises(ConfigError) as refused:
        check_rope(given, sequence_length=128)
    assert said in str(refused.value)
    config = write_architecture(small(), context_length=64, end_of_text=0, dtype="float32")
    if "data.sequence_length" not in str(refused.value) and "original_max_position_embeddings is" not in said:
        with pytest.raises(InputError, match=r"config.json: rope_scaling"):
            read_architecture({**config, "rope_parameters": None, "rope_scaling": given}, Path("config.json"))
