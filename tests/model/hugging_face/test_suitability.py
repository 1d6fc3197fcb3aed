"""What a Hugging Face model can't be trained with is refused in one line, before it has weights."""

import json

import pytest
import torch

from tests.hugging_face import OTHERS, save_other
from tests.run_ranks import small_config
from trainer.config import Model
from trainer.errors import ConfigError, InputError
from trainer.model.build import initial_weights, parameter_shapes, partition_model
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.model.hugging_face.suitability import require_causal, require_suitable, require_vocabulary
from trainer.model.region import Region


def error_line(folder, **changes):
    config = small_config(folder, folder / "run", **changes)
    config.model = Model(path=str(folder), overrides=config.model.overrides)
    with pytest.raises((ConfigError, InputError)) as caught:
        require_suitable(config.model, config.train, config.parallel, sequence_length=config.data.sequence_length)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gpt2", "publishes no tensor-parallel plan for gpt2"),
        ("phi3", "has model.layers.*.self_attn.o_proj as rowwise_split_input"),
        ("mixtral", "has model.layers.*.mlp.experts"),
    ],
)
def test_tensor_parallelism_without_a_usable_plan_is_refused(tmp_path, kind, reason):
    save_other(tmp_path, kind)
    assert reason in error_line(tmp_path, parallel__tensor=2)


def test_degree_that_does_not_divide_is_refused(tmp_path):
    save_other(tmp_path, "llama")
    assert "2 key and value heads of llama: use parallel.tensor=1 or 2" in error_line(tmp_path, parallel__tensor=4)
    save_other(tmp_path, "llama", intermediate_size=97)
    assert "doesn't divide 97, which it cuts model.layers.0.mlp." in error_line(tmp_path, parallel__tensor=2)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt_neox", "phi"])
def test_plan_cuts_what_it_names(tmp_path, kind):
    save_other(tmp_path, kind)
    config = Model(path=str(tmp_path))
    shapes = parameter_shapes(config)
    parts = [partition_model(config, shapes, rank, 2) for rank in range(2)]
    cut = {name for name in shapes if parts[0].slice_of(name)}
    assert any("mlp" in name for name in cut)
    for name in cut:
        one, two = (part.slice_of(name) for part in parts)
        assert (one.dim, one.start, one.stop) == (two.dim, 0, two.start)
        assert two.stop == shapes[name][two.dim]
    assert not any("norm" in name or "embed_" in name.rpartition("lm_head")[0] for name in cut)
    assert ("lm_head.weight" in cut) == (kind != "qwen3")  # tied there


def test_dropout_that_would_follow_the_shape_of_the_run_is_refused(tmp_path):
    save_other(tmp_path, "gpt2")
    dropout = {"attn_pdrop": 0.1, "resid_pdrop": 0.2}
    message = error_line(tmp_path, train__micro_batch_size=None, model__overrides=dropout)
    assert "needs train.micro_batch_size" in message
    assert message.endswith("switch dropout off: model.overrides.resid_pdrop=0 model.overrides.attn_pdrop=0.")
    save_other(tmp_path, "opt", layerdrop=0.1)
    assert "model.overrides.layerdrop=0" in error_line(tmp_path)
    save_other(tmp_path, "llama", attention_dropout=0.1)
    assert "model.overrides.attention_dropout=0" in error_line(tmp_path, parallel__tensor=2)


def test_rows_longer_than_its_positions_are_refused(tmp_path):
    save_other(tmp_path, "gpt2")
    assert "has max_position_embeddings=64" in error_line(tmp_path, data__sequence_length=65)


def test_router_s_own_loss_is_refused(tmp_path):
    save_other(tmp_path, "mixtral", output_router_logits=True)
    assert "model.overrides.output_router_logits=false" in error_line(tmp_path)


def test_vocabulary_below_the_data_s_is_refused(tmp_path):
    save_other(tmp_path, "gpt2")
    require_vocabulary(Model(path=str(tmp_path)), 300, tmp_path / "data")
    with pytest.raises(ConfigError, match="vocabulary of 300 is below the 301"):
        require_vocabulary(Model(path=str(tmp_path)), 301, tmp_path / "data")


def from_scratch(folder, dtype=torch.float32, **config):
    """The model of a config.json with its own first weights."""
    (folder / "config.json").write_text(json.dumps(config))
    settings = Model(path=str(folder))
    make, model = initial_weights(settings, seed=5), CausalLM(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(make(name, Region.of_slice(tuple(parameter.shape), None)).view(parameter.shape))
    return model.to(dtype)


ENCODER = {"vocab_size": 300, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER |= {"intermediate_size": 96, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
NOT_CAUSAL = {
    "bert": ENCODER,
    "ernie": ENCODER,
    "roberta": ENCODER,
    "electra": ENCODER | {"embedding_size": 48},
    "xlnet": {"vocab_size": 300, "d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 96},
    "xlm": {"vocab_size": 300, "emb_dim": 48, "n_layers": 2, "n_heads": 4, "pad_index": 0},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", NOT_CAUSAL)
def test_model_that_sees_what_it_is_to_predict_is_refused(tmp_path, kind, dtype):
    model = from_scratch(tmp_path, dtype, model_type=kind, **NOT_CAUSAL[kind])
    mend = "" if kind.startswith("xl") else "set model.overrides.is_decoder=true"
    for length in (1, 8, 512):
        with pytest.raises(InputError, match=f"{kind} isn't causal.*{mend}"):
            require_causal(model, length)
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*OTHERS, "bert", "roberta"])
def test_causal_model_is_taken_with_its_first_weights(tmp_path, kind, dtype):
    config = {"bos_token_id": 0, "eos_token_id": 0, **OTHERS[kind]} if kind in OTHERS else ENCODER
    require_causal(from_scratch(tmp_path, dtype, model_type=kind, is_decoder=True, **config), 32)


class LooksAhead(torch.nn.Module):
    """Logits of a causal model, and at one distance a little of what comes later."""

    def __init__(self, inner, distance):
        super().__init__()
        self.inner, self.distance, self.config = inner, distance, inner.config

    def forward(self, input_ids, **options):
        output = self.inner(input_ids=input_ids, **options)
        later = torch.roll(output.logits, -self.distance, dims=1)
        later[:, -self.distance :] = 0
        output.logits = output.logits + 0.3 * later
        return output


@pytest.mark.parametrize("distance", [1, 5])
def test_model_that_looks_ahead_at_one_distance_is_refused(tmp_path, distance):
    model = from_scratch(tmp_path, model_type="gpt2", **OTHERS["gpt2"])
    require_causal(model, 64)
    model.inner = LooksAhead(model.inner, distance)
    with pytest.raises(InputError, match="isn't causal"):
        require_causal(model, 64)


def test_model_that_needs_more_than_tokens_is_refused_in_a_line(tmp_path):
    model = from_scratch(tmp_path, model_type="gpt2", **OTHERS["gpt2"])
    model.inner.transformer.wpe = None
    with pytest.raises(InputError, match=r"gpt2 can't be run on tokens alone \(.*\)"):
        require_causal(model, 64)
