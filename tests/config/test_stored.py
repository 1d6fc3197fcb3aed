"""A stored configuration is read as plain values, whoever wrote it."""

import dataclasses

import pytest
import yaml

from trainer.config import Pretrain, TrainingSet, as_stored_values, as_values
from trainer.config.stored import from_values, load_values
from trainer.errors import InputError
from trainer.machine.environment import FromEnvironment, as_composable, as_stored
from trainer.run.directory import read_config

TEXTS = [
    "echo ${HOME}",
    "${oc.env:HOME}",
    "${",
    "???",
    "null",
    "1e-4",
    "a\\${b}",
    "#x",
    "床 😀",
    "x\n  y: z",
    "\u2028",
    "a: b",
    "",
]


def write(run_dir, **changes):
    """A config.yaml as a run writes it, but for values by dotted key (__ for the dots), and the folder."""
    values = as_stored_values(Pretrain())
    values["model"]["vocab_size"] = 300  # which a run settles as it begins
    for key, value in changes.items():
        *sections, leaf = key.split("__")
        holder = values
        for section in sections:
            holder = holder[section]
        holder[leaf] = value
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return run_dir


def full_config():
    config = Pretrain()
    config.data.train = {"web": TrainingSet("/w", 3.0)}
    config.data.input, config.deepspeed = ["a", "b"], {"x": [1, {"y": None}]}
    config.train.micro_batch_size, config.train.tokens = "auto", 10**12
    config.model.vocab_size = 300
    return config


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_is_read_to_the_letter(tmp_path, text):
    config = read_config(write(tmp_path, evaluate__prompt=text, data__licence=text, track__wandb__tags=[text]))
    assert (config.evaluate.prompt, config.data.licence, config.track.wandb.tags) == (text, text, [text])


def test_what_others_wrote_reads_no_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "planted")
    config = read_config(write(tmp_path, data__path="${oc.env:SECRET}", deepspeed={"x": "${oc.env:SECRET}"}))
    assert "planted" not in repr(config)
    with pytest.raises(InputError, match=r"train\.steps: must be int, not '\$\{oc\.env:SECRET\}'"):
        read_config(write(tmp_path, train__steps="${oc.env:SECRET}"))


def test_a_configuration_comes_back_as_it_was():
    config = full_config()
    assert from_values(Pretrain, as_values(config)) == config
    assert from_values(Pretrain, {}) == Pretrain()
    assert from_values(Pretrain, {"optimizer": {"lr": "1e-4"}}).optimizer.lr == 1e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"stepz": 1}}, "train.stepz: no such key"),
        ({"train": {"steps": "x"}}, "train.steps: must be int"),
        ({"train": {"steps": True}}, "train.steps: must be int"),
        ({"train": {"batch_size": None}}, "train.batch_size: must be int"),
        ({"train": []}, "train: must be dict"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr: must be a number"),
        ({"data": {"input": "a"}}, "data.input: must be list"),
        ({"data": {"train": {"a": {"path": 3}}}}, "data.train.a.path: must be str"),
        ({"data": {"train": {1: {"path": "x"}}}}, "data.train: must be str"),
        ({"data": {"train": {"../a": {"path": "x"}}}}, "a name is letters"),
        ({"data": {"sequence_length": -1}}, "data.sequence_length=-1: must be at least 1"),
        ({"model": {"vocab_size": 300}, "data": {"sequence_length": 10**400}}, None),
        ({"run": {"name": "../x"}}, "run.name="),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, values, message):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    if message is None:
        assert read_config(tmp_path)
        return
    with pytest.raises(InputError) as caught:
        read_config(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- 1",
        b"a: [b",
        b"[" * 100_000,
        b"\xff\xfe",
        b"a: &a [x]\nb: *a\n",
        b"!!python/object/apply:os.system [id]",
        b"a: 1\0",
    ],
    ids=lambda content: ascii(content[:20]),
)
def test_what_is_no_configuration_is_refused_in_a_line(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_values(tmp_path / "config.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'config.yaml'}: ")
    assert "\n" not in str(caught.value)


def test_text_from_the_environment_is_used_as_it_is_and_stored_as_it_was_written():
    config = Pretrain()
    config.data.licence = FromEnvironment("real", "${oc.env:X}")
    config.deepspeed = {"a": [FromEnvironment("real", "x${oc.env:X}")], "b": "${literal}"}
    assert (config.data.licence, as_values(config)["data"]["licence"]) == ("real", "real")
    assert dataclasses.replace(config.data).licence == "real"
    stored = as_stored_values(config)
    assert (stored["data"]["licence"], stored["deepspeed"]) == (
        "${oc.env:X}",
        {"a": ["x${oc.env:X}"], "b": "${literal}"},
    )
    assert as_composable(config.deepspeed) == {"a": ["x${oc.env:X}"], "b": "\\${literal}"}
    assert as_stored(("a", 1, None)) == ["a", 1, None]
