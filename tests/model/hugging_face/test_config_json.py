"""A config.json of others brings in no code, no other file, and nothing without bounds: by either road."""

import contextlib
import json
import time

import pytest

from tests.hugging_face import OTHERS, SIZES
from trainer.config import Model
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face import causal_lm
from trainer.model.hugging_face.causal_lm import CausalLM, read_model_config
from trainer.model.hugging_face.config_json import DEEPEST, LARGEST_FILE, read_json_object
from trainer.model.hugging_face.init_folder import find_init_folder

LLAMA = {"model_type": "llama", **SIZES}
DOORS = {
    "code of its own": ({"auto_map": {"AutoConfig": "own.Config"}}, "auto_map"),
    "a kernel": ({"attn_implementation": "org/kernel"}, "attn_implementation=org/kernel"),
    "a kernel's revision": ({"attn_implementation": "org/kernel@main:fn"}, "attn_implementation=org/kernel@main:fn"),
    "a kernel, paged": ({"attn_implementation": "paged|org/kernel"}, r"attn_implementation=paged\|org/kernel"),
    "a kernel, privately": ({"_attn_implementation": "org/kernel"}, "_attn_implementation=org/kernel"),
    "a kernel, inside": ({"_attn_implementation_internal": "org/kernel"}, "_attn_implementation_internal=org/kernel"),
    "a kernel by its package": ({"attn_implementation": "flash_attention_2"}, "attn_implementation=flash_attention_2"),
    "a kernel for a part": ({"attn_implementation": {"": "sdpa", "text_config": "org/k"}}, "attn_implementation=org/k"),
    "no name": ({"attn_implementation": 3}, "attn_implementation=3"),
    "a list": ({"attn_implementation": ["org/kernel"]}, "attn_implementation="),
    "experts": ({"experts_implementation": "sonicmoe"}, "experts_implementation=sonicmoe"),
    "experts, inside": ({"_experts_implementation_internal": "deepgemm"}, "_experts_implementation_internal=deepgemm"),
    "in a part": ({"text_config": {"attn_implementation": "org/kernel"}}, "text_config.attn_implementation=org/kernel"),
    "in a list of parts": ({"parts": [{"auto_map": {}}]}, "parts.auto_map"),
    "kernels": ({"use_kernels": True}, "use_kernels"),
    "a kernel's settings": ({"kernel_config": {"a": "b"}}, "kernel_config"),
    "fusion": ({"fusion_config": {"a": True}}, "fusion_config"),
    "pipelines": ({"custom_pipelines": {"x": {"impl": "own.Pipe"}}}, "custom_pipelines"),
    "trust": ({"trust_remote_code": True}, "trust_remote_code"),
    "another file": ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files"),
    "other weights": ({"transformers_weights": "../x.safetensors"}, "transformers_weights"),
    "quantization": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
}
# What only Hugging Face's own classes would take up: the other road refuses each as a field that it doesn't know.
MEMBERS = {
    "aliases": {"attribute_map": {"harmless": "_attn_implementation_internal"}, "harmless": "org/kernel"},
    "a method": {"to_dict": "x"},
    "a plan": {"base_model_tp_plan": {"layers.*": "colwise"}},
    "files": {"extra_files": ["x.safetensors"]},
    "Python's own": {"__class__": "x"},
}
BEYOND = {
    "layers": {"num_hidden_layers": 10**9},
    "layers in a part": {"text_config": {"num_hidden_layers": 10**9}},
    "width": {"hidden_size": 10**12},
    "width beyond 64 bits": {"intermediate_size": 10**30},
    "vocabulary": {"vocab_size": 2**63},
    "heads": {"num_attention_heads": 10**11},
    "experts": {"num_experts": 10**9},
    "positions": {"max_position_embeddings": 2**30},
    "negative": {"num_hidden_layers": -(10**9)},
}


def write(folder, config):
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def refuse(road, *arguments, match):
    with pytest.raises((ConfigError, InputError), match=match) as caught:
        road(*arguments)
    assert "\n" not in str(caught.value)


def by_ours(folder):
    return find_init_folder(str(folder))


def by_theirs(folder, **overrides):
    return read_model_config(Model(path=str(folder), overrides=overrides))


@pytest.mark.parametrize(("fields", "named"), DOORS.values(), ids=DOORS)
def test_code_and_files_of_others_are_refused_by_name(tmp_path, fields, named):
    write(tmp_path, LLAMA | fields)
    refuse(by_ours, tmp_path, match=named)
    refuse(by_theirs, tmp_path, match=named)


@pytest.mark.parametrize("fields", MEMBERS.values(), ids=MEMBERS)
def test_parts_of_transformers_own_classes_are_no_fields(tmp_path, fields):
    write(tmp_path, LLAMA | fields)
    refuse(by_ours, tmp_path, match=next(iter(fields)))
    refuse(by_theirs, tmp_path, match=next(iter(fields)))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ({"attn_implementation": "org/kernel"}, "model.overrides: attn_implementation"),
        ({"_attn_implementation": "org/kernel"}, "model.overrides: _attn_implementation"),
        ({"trust_remote_code": True}, "model.overrides: trust_remote_code"),
        ({"gguf_file": "x.gguf"}, "model.overrides: gguf_file"),
        ({"subfolder": ".."}, "model.overrides.subfolder"),
        ({"_configuration_file": "../x.json"}, "model.overrides._configuration_file"),
        ({"return_unused_kwargs": False}, "return_unused_kwargs"),
        ({"quantization_config": {"a": 1}}, "model.overrides: quantization_config"),
        ({"num_hidden_layers": 10**9}, "model.overrides: num_hidden_layers=1000000000"),
    ],
)
def test_doors_stay_closed_to_overrides(tmp_path, override, named):
    write(tmp_path, LLAMA)
    refuse(lambda: by_theirs(tmp_path, **override), match=named)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_what_is_built_in_is_taken_and_takes_the_place_of_the_rest(tmp_path, name):
    write(tmp_path, LLAMA | {"attn_implementation": "eager"})
    assert by_theirs(tmp_path)._attn_implementation == "eager"
    write(tmp_path, LLAMA | {name: "org/kernel"})
    assert by_theirs(tmp_path, attn_implementation="sdpa")._attn_implementation == "sdpa"


@pytest.mark.parametrize("fields", BEYOND.values(), ids=BEYOND)
def test_sizes_beyond_any_model_are_refused_before_anything_is_built(tmp_path, fields):
    write(tmp_path, LLAMA | fields)
    key = next(iter(fields))
    began = time.monotonic()
    refuse(by_ours, tmp_path, match=key)
    refuse(by_theirs, tmp_path, match=key)
    assert time.monotonic() - began < 20


def test_models_that_grow_beyond_any_are_not_built_to_the_end(tmp_path, monkeypatch):
    write(tmp_path, LLAMA | {"hidden_size": 2**20, "intermediate_size": 2**30})
    import torch

    with torch.device("meta"):
        refuse(CausalLM, Model(path=str(tmp_path)), match="more than 4,000,000,000,000 parameters")
        write(tmp_path, {"model_type": "gptj", "n_positions": 2**24, "rotary_dim": 128, "n_layer": 1})
        refuse(CausalLM, Model(path=str(tmp_path)), match="buffers of more than")
        write(tmp_path, LLAMA | {"num_hidden_layers": 20})
        monkeypatch.setattr(causal_lm, "MOST_MODULES", 100)
        refuse(CausalLM, Model(path=str(tmp_path)), match="more than 100 modules")


VALUES = [0, -1, 1.5, True, "48", None, float("nan"), [], {}, 2**40]
NAMES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "head_dim"]


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_that_no_field_can_have_end_in_a_line(tmp_path, key, value):
    import torch

    write(tmp_path, LLAMA | {key: value})
    if (key, value) != ("head_dim", None):  # which is by the number of heads
        refuse(by_ours, tmp_path, match=key)
    with torch.device("meta"), contextlib.suppress(ConfigError, InputError):  # nothing else
        CausalLM(Model(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "can't be read as JSON"),
        ("[]", "no JSON object"),
        ("{", "can't be read as JSON"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "can't be read|deep"),
        ('{"a": ' * 40 + "1" + "}" * 40, f"more than {DEEPEST} levels deep"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", f"more than {DEEPEST} levels deep"),
        ('{"a": ' + "9" * 5000 + "}", "can't be read as JSON"),
        ('"' + "x" * LARGEST_FILE + '"', "larger than 16 MiB"),
        ("\ud800", "can't be read as JSON"),
    ],
    ids=range(9),
)
def test_files_that_are_no_json_or_too_much_of_it_are_refused(tmp_path, text, reason):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refuse(read_json_object, path, match=reason)


def test_an_adapter_beside_the_model_is_refused(tmp_path):
    write(tmp_path, LLAMA)
    (tmp_path / "adapter_config.json").write_text("{}")
    refuse(by_ours, tmp_path, match="adapter_config.json: an adapter's weights")
    refuse(by_theirs, tmp_path, match="adapter_config.json: an adapter's weights")


@pytest.mark.parametrize("kind", OTHERS)
def test_what_transformers_itself_writes_is_accepted(tmp_path, kind):
    from transformers import AutoConfig

    AutoConfig.for_model(kind, **OTHERS[kind]).save_pretrained(tmp_path)
    assert by_theirs(tmp_path).model_type == kind
    AutoConfig.for_model(kind, **OTHERS[kind]).to_json_file(tmp_path / "config.json", use_diff=False)
    assert by_theirs(tmp_path).model_type == kind
