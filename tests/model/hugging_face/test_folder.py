"""The folder of a Hugging Face model: what is refused of it, and what the run directory keeps."""

import json

import pytest

from launch.compose import compose
from tests.hugging_face import save_other
from tests.run_ranks import small_config
from trainer.config import Model
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face.folder import find_model, keep_model, own_model, read_own_config
from trainer.model.hugging_face.inner_folder import has_weights
from trainer.rules.pretrain import check_pretrain
from trainer.run.directory import name_run


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("parallel.sequence", 2),
        ("optimizer.name", "muon"),
        ("train.activation_checkpointing", "selective"),
        ("train.compile", True),
        ("parallel.uneven_heads", True),
    ],
)
def test_what_it_cannot_be_asked_for_is_refused_without_a_file(tmp_path, key, value):
    config = small_config(tmp_path, tmp_path / "run", **{key.replace(".", "__"): value})
    config.model = Model(path="anywhere")
    with pytest.raises(ConfigError, match=rf"{key}=.* with model.path"):
        check_pretrain(config, 2)


def test_sizes_of_our_decoder_are_refused(tmp_path):
    config = small_config(tmp_path, tmp_path / "run")
    config.model = Model(path="anywhere", hidden_size=64)
    with pytest.raises(ConfigError, match=r"model\.hidden_size=64 has no effect"):
        check_pretrain(config, 1)


def test_name_of_a_hub_and_a_folder_without_a_model_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        find_model(Model(path="openai/gpt2"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no config\.json there"):
        find_model(Model(path=str(tmp_path)), tmp_path / "run")


def test_pickles_are_refused_and_no_weights_are_none(tmp_path):
    assert not has_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match=r"pytorch_model\.bin: weights are read from safetensors only"):
        has_weights(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert has_weights(tmp_path)


def test_run_keeps_the_configuration_that_counts_and_knows_when_it_changed(tmp_path):
    run_dir, folder = tmp_path / "run", tmp_path / "model"
    run_dir.mkdir()
    save_other(folder, "gpt2")
    given = Model(path=str(folder), overrides={"n_layer": 3})
    keep_model(run_dir, given, find_model(given, run_dir), resumed=False)
    assert read_own_config(run_dir)[0]["n_layer"] == 3
    keep_model(run_dir, given, find_model(given, run_dir), resumed=True)

    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"activation_function": "relu"}))
    with pytest.raises(ConfigError, match="activation_function: gelu_new → relu can't change in a run"):
        keep_model(run_dir, given, find_model(given, run_dir), resumed=True)

    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    assert find_model(given, run_dir) == own_model(given, run_dir)
    keep_model(run_dir, given, find_model(given, run_dir), resumed=True)
    with pytest.raises(ConfigError, match=r"no config\.json there"):
        keep_model(run_dir, given, find_model(given, run_dir), resumed=False)


def test_command_line_knows_the_folder_and_refuses_sizes(tmp_path):
    save_other(tmp_path / "my model", "gpt2")
    given = f"model.path={tmp_path / 'my model'}"
    config = compose("pretrain", [given, "model.overrides.n_layer=3", "data.path=d"])
    assert (config.model.name, config.model.overrides) == ("my-model", {"n_layer": 3})
    assert compose("pretrain", ["model=hf", given, "data.path=d"]).model.path == str(tmp_path / "my model")
    assert name_run(config) != name_run(compose("pretrain", [given, "data.path=d"]))
    for typed, reason in (
        (["model=hf"], "model=hf needs model.path=DIR"),
        (["model=llama_125m", given], "leave model=llama_125m out"),
        ([given, "model.hidden_size=256"], "model.hidden_size has no effect"),
        ([given, "model.init_from=x"], "init_from"),
    ):
        with pytest.raises(ConfigError, match=reason):
            compose("pretrain", typed)


def test_run_of_such_a_model_is_no_beginning_for_our_decoder(tmp_path):
    (tmp_path / "config.yaml").write_text("model: {name: x, path: /models/gpt2}\n")
    with pytest.raises(ConfigError, match="banyan export"):
        compose("pretrain", [f"model.init_from={tmp_path}", "data.path=d"])
