"""What a model of transformers' can't be trained with is refused in one line, before it has weights."""

import pytest

from tests.hugging_face import save_other
from tests.ranks import small_config
from trainer.config import Model
from trainer.errors import ConfigError, InputError
from trainer.model.build import parameter_shapes, partition_model
from trainer.model.suitability import require_suitable, require_vocabulary


def refusal(folder, **changes):
    config = small_config(folder, folder / "run", **changes)
    config.model = Model(path=str(folder), overrides=config.model.overrides)
    with pytest.raises((ConfigError, InputError)) as caught:
        require_suitable(config, config.model)
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
    assert reason in refusal(tmp_path, parallel__tensor=2)


def test_degree_that_does_not_divide_is_refused(tmp_path):
    save_other(tmp_path, "llama")
    assert "2 key and value heads of llama: use parallel.tensor=1 or 2" in refusal(tmp_path, parallel__tensor=4)
    save_other(tmp_path, "llama", intermediate_size=97)
    assert "doesn't divide 97, which it cuts model.layers.0.mlp." in refusal(tmp_path, parallel__tensor=2)


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
    message = refusal(tmp_path, train__micro_batch_size=None, model__overrides=dropout)
    assert "needs train.micro_batch_size" in message
    assert message.endswith("switch dropout off: model.overrides.resid_pdrop=0 model.overrides.attn_pdrop=0.")
    save_other(tmp_path, "opt", layerdrop=0.1)
    assert "model.overrides.layerdrop=0" in refusal(tmp_path)
    save_other(tmp_path, "llama", attention_dropout=0.1)
    assert "model.overrides.attention_dropout=0" in refusal(tmp_path, parallel__tensor=2)


def test_rows_longer_than_its_positions_are_refused(tmp_path):
    save_other(tmp_path, "gpt2")
    assert "has max_position_embeddings=64" in refusal(tmp_path, data__sequence_length=65)


def test_router_s_own_loss_is_refused(tmp_path):
    save_other(tmp_path, "mixtral", output_router_logits=True)
    assert "model.overrides.output_router_logits=false" in refusal(tmp_path)


def test_vocabulary_below_the_data_s_is_refused(tmp_path):
    save_other(tmp_path, "gpt2")
    require_vocabulary(Model(path=str(tmp_path)), 300, tmp_path / "data")
    with pytest.raises(ConfigError, match="vocabulary of 300 is below the 301"):
        require_vocabulary(Model(path=str(tmp_path)), 301, tmp_path / "data")
