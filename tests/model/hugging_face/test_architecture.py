"""config.json is read and written as transformers means it; what our decoder can't compute is refused by name."""

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from tests.hugging_face import KINDS, SIZES
from trainer.config import Model
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face.architecture import (
    ARCHITECTURE,
    first_difference,
    read_architecture,
    stored_tensors,
    write_architecture,
)

SOURCE = Path("config.json")
OURS = {
    "llama": {"rope_theta": 5e5, "rms_norm_eps": 1e-4},
    "tied": {"tie_word_embeddings": True, "head_dim": 20},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "experts": {"qk_norm": True, "num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": False},
}


def written(model: Model) -> dict:
    return write_architecture(model, context_length=512, end_of_text=7, dtype="float32")


@pytest.mark.parametrize("changes", OURS.values(), ids=OURS)
def test_model_survives_the_way_through_transformers(tmp_path, changes):
    model = Model(vocab_size=131, hidden_size=64, num_attention_heads=4, **changes)
    (tmp_path / "config.json").write_text(json.dumps(written(model)))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert (theirs.max_position_embeddings, theirs.eos_token_id, theirs.bos_token_id) == (512, 7, 7)
    theirs.save_pretrained(tmp_path)
    again = read_architecture(json.loads((tmp_path / "config.json").read_text()), SOURCE)
    assert first_difference(model, again) is None
    assert set(again) <= set(ARCHITECTURE)


@pytest.mark.parametrize("kind", KINDS)
def test_config_of_transformers_is_read(kind):
    settings, _, own = KINDS[kind]
    found = read_architecture(settings(**{**SIZES, **own}).to_dict(), SOURCE)
    expected = SIZES | {key: value for key, value in own.items() if key in ARCHITECTURE}
    assert {key: found[key] for key in expected} == expected
    assert (found["qk_norm"], found["qkv_bias"]) == ("qwen3" in kind, kind == "qwen2")


def test_config_from_before_transformers_5_is_read():
    old = {**SIZES, "model_type": "llama", "rope_theta": 1234.0, "rope_scaling": None, "hidden_act": "silu"}
    del old["head_dim"], old["num_key_value_heads"]
    found = read_architecture(old, SOURCE)
    assert (found["rope_theta"], found["head_dim"], found["num_key_value_heads"]) == (1234.0, None, 4)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("llama", {"model_type": "gpt2"}, "model_type=gpt2"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act=gelu"),
        ("llama", {"attention_bias": True, "mlp_bias": True}, "attention_bias=True"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}},
            "rope_parameters.type is dynamic",
        ),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factr": 2.0}}, "rope_scaling.factr"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config="),
        ("llama", {"hidden_size": None}, "hidden_size is missing"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types=.*with a window"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\]"),
    ],
)
def test_first_unsupported_field_is_named(kind, changes, named):
    settings, _, own = KINDS[kind]
    with pytest.raises(InputError, match=named):
        read_architecture({**settings(**{**SIZES, **own}).to_dict(), **changes}, SOURCE)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_experts": 4}, "model.qk_norm"),
        ({"qkv_bias": True, "qk_norm": True}, "model.qkv_bias"),
    ],
)
def test_model_that_no_architecture_of_theirs_is_cannot_be_written(changes, named):
    with pytest.raises(ConfigError, match=named):
        written(Model(vocab_size=131, **changes))


def test_sizes_without_effect_make_no_difference():
    dense, moe = Model(vocab_size=1), Model(vocab_size=1, num_experts=4)
    fields = {name: getattr(dense, name) for name in ARCHITECTURE}
    assert first_difference(dense, fields | {"num_experts_per_tok": 9, "head_dim": 64}) is None
    assert first_difference(dataclasses.replace(moe, intermediate_size=1), fields | {"num_experts": 4}) is None
    assert first_difference(moe, fields | {"num_experts": 4, "num_experts_per_tok": 9}) == "num_experts_per_tok"


def test_stacked_experts_lie_one_by_one_on_disk():
    assert stored_tensors("model.layers.0.mlp.experts.gate_up_proj", (2, 6, 5)) == [
        ("model.layers.0.mlp.experts.0.gate_proj.weight", (3, 5)),
        ("model.layers.0.mlp.experts.0.up_proj.weight", (3, 5)),
        ("model.layers.0.mlp.experts.1.gate_proj.weight", (3, 5)),
        ("model.layers.0.mlp.experts.1.up_proj.weight", (3, 5)),
    ]
    assert stored_tensors("model.layers.0.mlp.down_proj.weight", (3, 5)) == [
        ("model.layers.0.mlp.down_proj.weight", (3, 5))
    ]
