"""Runs on encrypted data, with encrypted checkpoints: equal to the plain run, and their files tell nothing of it."""

import shutil

import pytest

from launch.cli import main
from tests.data.encrypted import PREPARED, needles, secret_texts
from tests.keys import found, open_to_others, unencrypted, using, write_key
from tests.prepared import write_jsonl
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config, start_ranks
from trainer.checkpoint.folders import folder_of
from trainer.checkpoint.reader import read_weights
from trainer.config import EvaluateVerb
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards

KEY = "data.encryption.key_file"
HOW = {"train__steps": 16, "checkpoint__every": 4, "parallel__zero_stage": 1}


def losses(run_dir):
    return {row["step"]: (row["train/loss"], row["train/grad_norm"]) for row in read_metrics(run_dir)}


def evaluate(config):
    from trainer.config.encryption import use_key
    from trainer.verbs.evaluate import main

    use_key(config)
    return main(config)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The same data plain and encrypted, two keys, and two ranks' run on each: the second killed, and gone on."""
    folder = tmp_path_factory.mktemp("encrypted")
    texts = secret_texts(300)
    write_jsonl(folder / "in.jsonl", texts)
    key = write_key(folder / "key")
    write_key(folder / "other")
    for name, more in (("plain", ()), ("sealed", (f"{KEY}={key}",))):
        with using(None):
            places = f"data.input={folder / 'in.jsonl'}", f"data.output={folder / name}"
            assert main(["prepare", *places, *PREPARED, *more]) == 0
    assert run_ranks(pretrain, small_config(folder / "plain", folder / "plain-run", **HOW), 2) == [0, 0]
    secrets = needles(texts, [open_shards(read_manifest(folder / "plain" / "train"))])
    config = sealed_config(folder)
    ranks = start_ranks(pretrain, config, 2)
    ranks.kill_once_saved(folder / "watched" / "run")
    assert not found(folder / "watched", secrets)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    assert found(folder / "plain", secrets)
    assert not found(folder / "watched", secrets)
    return folder


def sealed_config(folder, key="key"):
    """Its shards are kept in a cache, as those of a slow mount are."""
    config = small_config(
        folder / "sealed", folder / "watched" / "run", **HOW, data__cache=str(folder / "watched" / "cache")
    )
    config.data.encryption.key_file = None if key is None else str(folder / key)
    config.checkpoint.encrypt = key is not None
    return config


def test_it_equals_the_plain_run_to_the_bit(place):
    run_dir = place / "watched" / "run"
    assert losses(run_dir) == losses(place / "plain-run")
    with using(place / "key"):
        sealed = dict(read_weights(folder_of(run_dir, 16)))
    plain = dict(read_weights(folder_of(place / "plain-run", 16)))
    assert sealed.keys() == plain.keys()
    assert all(sealed[name].equal(plain[name]) for name in plain)


def test_weights_tokenizer_and_cache_are_ciphertext_that_others_cant_read(place):
    run_dir = place / "watched" / "run"
    with using(place / "key"):
        weights = [tensor.numpy().tobytes()[:64] for _, tensor in read_weights(folder_of(run_dir, 16))]
    weights = [content for content in weights if len(set(content)) > 16]
    assert found(place / "plain-run", weights)
    assert not found(run_dir, weights)
    assert not open_to_others(place / "watched" / "run")
    assert not unencrypted(run_dir / "checkpoints", allowed=("index.safetensors", "state.json"))
    assert not unencrypted(run_dir / "tokenizer")
    assert not unencrypted(place / "watched" / "cache", allowed=("lock", "absent"))


def test_another_key_or_none_is_refused_before_anything_is_written(place, tmp_path, capsys):
    run_dir = place / "watched" / "run"
    before = {path: path.read_bytes() for path in (run_dir / "checkpoints").rglob("*") if path.is_file()}
    for key, line in (("other", "encrypted with another key"), (None, "give its key")):
        codes, errors = fail_ranks(pretrain, sealed_config(place, key))
        assert codes == [2]
        assert line in errors[0]
        evaluated = EvaluateVerb()
        evaluated.run.dir, evaluated.data.encryption.key_file = str(run_dir), key and str(place / key)
        codes, errors = fail_ranks(evaluate, evaluated)
        assert codes == [2]
        assert line in errors[0]
    shutil.copytree(run_dir, tmp_path / "run")
    for command in (
        *("export run.dir=RUN", "generate run.dir=RUN prompt=a max_tokens=2", "data at RUN step=2"),
        *("checkpoint verify RUN", "explain run.dir=RUN prompt=a"),
    ):
        for more, line in (([], "give its key"), ([f"{KEY}={place / 'other'}"], "encrypted with another key")):
            with using(None):
                assert main([*command.replace("RUN", str(tmp_path / "run")).split(), *more]) == 2
            error = capsys.readouterr().err
            assert line in error
            assert error.count("\n") == 1, error
    assert not (tmp_path / "run" / "export").exists()
    assert before == {path: path.read_bytes() for path in (run_dir / "checkpoints").rglob("*") if path.is_file()}


def test_another_shape_goes_on_and_verbs_read_it_with_the_key(place, tmp_path, capsys):
    shutil.copytree(place / "watched" / "run", tmp_path / "run")
    config = sealed_config(place)
    config.run.dir, config.train.steps = str(tmp_path / "run"), 18
    config.run.allow_change = True
    assert run_ranks(pretrain, config, 1) == [0]
    for command in (
        "generate run.dir=RUN prompt=a max_tokens=2",
        "data at RUN step=2",
        "checkpoint verify RUN",
        "export run.dir=RUN",
    ):
        with using(None):
            words = [*command.replace("RUN", str(tmp_path / "run")).split(), f"{KEY}={place / 'key'}"]
            assert main(words) == 0, capsys.readouterr()


def test_a_run_gets_another_key_between_two_starts(place, tmp_path, capsys):
    shutil.copytree(place / "watched" / "run", tmp_path / "run")
    with using(None):
        command = ["data", "rekey", str(tmp_path / "run"), f"{KEY}={place / 'key'}", f"new.key_file={place / 'other'}"]
        assert main(command) == 0
    assert "files rewritten" in capsys.readouterr().out
    words = ["checkpoint", "verify", str(tmp_path / "run")]
    for key, code in (("key", 2), ("other", 0)):
        with using(None):
            assert main([*words, f"{KEY}={place / key}"]) == code


def test_checkpoints_are_encrypted_only_with_a_key_and_a_file_for_each_rank(tmp_path, capsys):
    with using(None):
        assert main(["pretrain", f"run.dir={tmp_path}", "data.path=x", "checkpoint.encrypt=true"]) == 2
    assert "checkpoint.encrypt=true needs a key" in capsys.readouterr().err
    with using(None):
        words = ["checkpoint.encrypt=true", "checkpoint.writers=1", "data.encryption.key_env=K"]
        assert main(["pretrain", f"run.dir={tmp_path}", "data.path=x", *words]) == 2
    assert "written by one rank" in capsys.readouterr().err
