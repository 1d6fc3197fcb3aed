"""Hugging Face models under our signature: same losses, weights and buffers; documents apart, or refused."""

import json

import pytest
import torch
import torch.nn.functional as F

from tests.hugging_face import OTHERS, save_other, some_tokens
from trainer.config import Model
from trainer.errors import ConfigError, InputError
from trainer.model.build import initial_weights, parameter_shapes
from trainer.model.hugging_face.causal_lm import CausalLM, read_model_config, write_config
from trainer.model.hugging_face.inner_folder import open_inner_weights
from trainer.model.hugging_face.suitability import require_separation
from trainer.model.region import Region


def build(folder, **settings):
    """The model of a folder, with its weights, as training on one process has it."""
    config = Model(path=str(folder), **settings)
    shapes = parameter_shapes(config)
    weights, _ = open_inner_weights(config, shapes)
    model = CausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights(name, "fp32", Region.of_slice(shapes[name], None)).view(shapes[name]))
    return model.eval()


@pytest.mark.parametrize("kind", OTHERS)
def test_row_losses_are_those_of_transformers_logits(tmp_path, kind):
    theirs, ours = save_other(tmp_path, kind), build(tmp_path, loss_chunk=7)
    tokens, targets = some_tokens(3, 16), some_tokens(3, 17)[:, 1:].clone()
    targets[1, 3:9] = -100
    with torch.no_grad():
        logits = theirs(tokens).logits
        expected = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(dim=1)
        assert torch.equal(ours(tokens), logits)
        torch.testing.assert_close(ours(tokens, targets), expected, rtol=1e-6, atol=1e-5)
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()


def test_only_names_that_differ_are_left_to_transformers(tmp_path):
    """GPT-2's old files lack a prefix; Mixtral's hold experts one by one."""
    from safetensors.torch import load_file, save_file

    theirs = save_other(tmp_path, "gpt2")
    file = tmp_path / "model.safetensors"
    save_file({name.removeprefix("transformer."): weight for name, weight in load_file(file).items()}, file)
    config = Model(path=str(tmp_path))
    assert open_inner_weights(config, parameter_shapes(config))[1] == str(tmp_path)
    with torch.no_grad():
        assert torch.equal(build(tmp_path)(some_tokens()), theirs(some_tokens()).logits)
    save_other(tmp_path / "mixtral", "mixtral")
    config = Model(path=str(tmp_path / "mixtral"))
    assert "translated by transformers" in open_inner_weights(config, parameter_shapes(config))[1]


def test_weights_that_are_not_the_model_s_are_refused(tmp_path):
    save_other(tmp_path, "gpt2")
    config = Model(path=str(tmp_path), overrides={"n_layer": 3})
    with pytest.raises(InputError, match=r"transformer.h.2.*is not there"):
        open_inner_weights(config, parameter_shapes(config))


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "mamba"])
def test_initial_weights_are_transformers_own_rules_by_seed_and_name(tmp_path, kind):
    theirs = type(save_other(tmp_path, kind))(read_model_config(Model(path=str(tmp_path))))
    make, again, other = (initial_weights(Model(path=str(tmp_path)), seed) for seed in (5, 5, 6))
    for name, parameter in theirs.named_parameters():
        whole = Region.of_slice(tuple(parameter.shape), None)
        weight = make(name, whole).view(parameter.shape)
        assert torch.equal(weight, again(name, whole).view(parameter.shape))
        if parameter.std() > 0 and parameter.numel() > 1000:
            assert weight.std().item() == pytest.approx(parameter.std().item(), rel=0.1), name
            assert not torch.equal(weight, other(name, whole).view(parameter.shape))
        elif parameter.std() == 0:
            assert torch.equal(weight, parameter.detach()), name


def test_buffers_are_exact_again_after_a_cast(tmp_path):
    save_other(tmp_path, "gemma2")
    model = build(tmp_path)
    exact = {name: buffer.clone() for name, buffer in model.inner.named_buffers()}
    model.bfloat16()
    assert model.inner.model.rotary_emb.inv_freq.dtype == torch.bfloat16
    model.restore_buffers()
    assert exact
    for name, buffer in model.inner.named_buffers():
        assert torch.equal(buffer, exact[name])
    assert next(model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_documents_of_a_row_are_as_if_alone(tmp_path, kind):
    save_other(tmp_path, kind)
    model, tokens = build(tmp_path), some_tokens(1, 20)
    require_separation(model, 32)
    ids = torch.tensor([[0] * 7 + [1] * 13])
    with torch.no_grad():
        apart = model(tokens, document_ids=ids)
        alone = torch.cat((model(tokens[:, :7]), model(tokens[:, 7:])), dim=1)
        torch.testing.assert_close(apart, alone, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(apart, model(tokens), atol=1e-3)


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_model_that_cannot_keep_documents_apart_is_refused(tmp_path, kind):
    save_other(tmp_path, kind)
    with pytest.raises(ConfigError, match=f"data.mask_documents=true: {kind}"):
        require_separation(build(tmp_path), 32)


def test_generation_sees_all_tokens_so_far(tmp_path):
    save_other(tmp_path, "gpt2")
    model, tokens = build(tmp_path), some_tokens(1, 12)
    cache = model.new_cache(64)
    with torch.no_grad():
        model(tokens[:, :8], cache=cache)
        last = model(tokens[:, 8:], cache=cache)
        torch.testing.assert_close(last, model(tokens)[:, -1:])


def test_fields_are_overridden_under_either_name(tmp_path):
    save_other(tmp_path, "gpt2")
    written = write_config(Model(path=str(tmp_path), overrides={"num_hidden_layers": 3, "attn_pdrop": 0.2}))
    assert (written["n_layer"], written["attn_pdrop"], written["architectures"]) == (3, 0.2, ["GPT2LMHeadModel"])
    with pytest.raises(ConfigError, match=r"model.overrides.layers: .* no such field"):
        read_model_config(Model(path=str(tmp_path), overrides={"layers": 3}))
    with pytest.raises((ConfigError, InputError), match="n_layer"):
        read_model_config(Model(path=str(tmp_path), overrides={"n_layer": "many"}))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "vit"}, "no Hugging Face causal language model"),
        ({"model_type": "no_such_model"}, "transformers can't use it"),
        ({"model_type": "gpt2", "auto_map": {"AutoConfig": "own.Config"}}, "auto_map"),
        ([], "holds no JSON object"),
        ({"model_type": ["gpt2"]}, "knows no model_type"),
        ({"model_type": "gpt2", "n_layer": "many"}, "n_layer"),
    ],
)
def test_config_that_transformers_cannot_use_is_refused(tmp_path, config, reason):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=reason) as caught:
        read_model_config(Model(path=str(tmp_path)))
    assert "\n" not in str(caught.value)
