"""Encrypted data: what prepare and training make of them is what they make of plain ones, and no text is on a disk."""

import hashlib
import json
import random
import shutil
import time

import numpy as np
import pytest

from launch.cli import main
from tests.data.encrypted import PREPARED, banyan, needles, secret_texts, start_banyan
from tests.data.remote.store import Store, StoreHandler
from tests.data.text.servers import served
from tests.keys import found, open_to_others, unencrypted, using, write_key
from tests.killed import kill_after_files
from tests.prepared import write_jsonl
from trainer.data.remote.fetching import Fetching
from trainer.data.tokens.dataset import find_damage, find_missing_file, open_dataset
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.errors import InputError

KEY = "data.encryption.key_file"
CLEANED = ("data.clean.stages=[gopher_quality]", "data.clean.signals=true")
ALL_STAGES = ("data.near_duplicates=true", "data.repeated_paragraphs=true")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Texts, two keys, and the same output of prepare plain and encrypted."""
    folder = tmp_path_factory.mktemp("encrypted")
    texts = secret_texts(400)
    write_jsonl(folder / "in" / "a.jsonl", [*texts, *texts[:5]])
    write_key(folder / "key")
    write_key(folder / "other")
    for name, more in (("plain", ()), ("sealed", (f"{KEY}={folder / 'key'}",))):
        with using(None):
            arguments = [f"data.input={folder / 'in'}", f"data.output={folder / name}", *PREPARED, *more]
            assert main(["prepare", *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def secrets_of(place):
    """What must not be found in any file."""
    shards = [open_shards(read_manifest(place / "plain" / split)) for split in ("train", "validation")]
    return needles(secret_texts(400), shards)


def test_encrypted_shards_are_the_plain_ones(place, secrets_of):
    assert found(place / "plain", secrets_of)  # by what the search goes, it finds
    assert not found(place / "sealed", secrets_of)
    assert not unencrypted(place / "sealed")
    assert not open_to_others(place / "sealed")
    with using(place / "key"):
        for split in ("train", "validation"):
            plain, sealed = (read_manifest(place / name / split) for name in ("plain", "sealed"))
            assert sealed.fingerprint == plain.fingerprint
            assert sealed.tokenizer_sha256 == plain.tokenizer_sha256
            for one, other, shard in zip(open_shards(plain), open_shards(sealed), sealed.shards, strict=True):
                assert np.array_equal(one.read(0, one.tokens), other.read(0, other.tokens))
                starts = np.random.default_rng(0).integers(0, one.tokens - 32, 20)
                assert np.array_equal(one.gather(starts, 32), other.gather(starts, 32))
                assert np.array_equal(one.take(starts.reshape(4, 5)), other.take(starts.reshape(4, 5)))
                assert one.documents(0, 500) == other.documents(0, 500)
                stored = (place / "sealed" / split / shard.file).read_bytes()
                assert (len(stored), hashlib.sha256(stored).hexdigest()) == (shard.bytes, shard.sha256)


def test_the_same_command_finds_it_up_to_date_with_the_key_alone(place, capsys):
    arguments = ["prepare", f"data.input={place / 'in'}", f"data.output={place / 'sealed'}", *PREPARED]
    for more, code, words in (
        ([f"{KEY}={place / 'key'}"], 0, "up to date"),
        ([f"data.encryption.key_command=cat {place / 'key'}"], 0, "up to date"),
        ([], 2, "encrypted; give its key"),
        ([f"{KEY}={place / 'other'}"], 2, "encrypted with another key"),
        ([f"{KEY}={place / 'key'}", "data.encryption.key_env=HOME"], 2, "give exactly one"),
    ):
        with using(None):
            assert main([*arguments, *more]) == code
        shown = capsys.readouterr()
        assert words in shown.out + shown.err
        assert shown.err.count("\n") == (code == 2)
    with using(None):
        plain = [argument.replace("sealed", "plain") for argument in arguments]
        assert main([*plain, f"{KEY}={place / 'key'}"]) == 2
    assert "was begun without encryption" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["data verify SEALED", "data show SEALED", "data stats SEALED", "data why SEALED id=a.jsonl:3", "report SEALED"],
)
def test_verbs_that_look_at_data_need_the_key(place, tmp_path, command, capsys):
    shutil.copytree(place / "sealed", tmp_path / "sealed")
    words = command.replace("SEALED", str(tmp_path / "sealed")).split()
    before = {path: path.read_bytes() for path in (tmp_path / "sealed").rglob("*") if path.is_file()}
    for more, line in (([], "encrypted; give its key"), ([f"{KEY}={place / 'other'}"], "encrypted with another key")):
        with using(None):
            assert main([*words, *more]) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
    assert before == {path: path.read_bytes() for path in (tmp_path / "sealed").rglob("*") if path.is_file()}
    with using(None):
        assert main([*words, f"{KEY}={place / 'key'}"]) == 0


def test_damage_is_told_in_a_line(place, tmp_path, capsys):
    for wrong, words in (
        ("flip", "sha256 differs"),
        ("cut", "expected by the manifest"),
        ("swap", "expected by the manifest"),
    ):
        folder = tmp_path / wrong
        shutil.copytree(place / "sealed" / "train", folder)
        first, second, *_ = sorted(folder.glob("*.tar"))
        content = bytearray(first.read_bytes())
        if wrong == "flip":
            content[len(content) // 2] ^= 4
        first.write_bytes(second.read_bytes() if wrong == "swap" else content[:-1] if wrong == "cut" else content)
        with using(None):
            assert main(["data", "verify", str(folder), f"{KEY}={place / 'key'}"]) == 2
        error = capsys.readouterr()
        assert words in error.out + error.err
        with using(place / "key"):
            dataset = open_dataset("train", str(folder), key="data.path", split="train", sequence_length=32)
            problem = find_missing_file(dataset, part=0, parts=1) or find_damage(dataset, part=0, parts=1)
            assert problem
            assert "shard-000000.tar" in problem
            if wrong != "swap":
                with pytest.raises(InputError, match=r"shard-000000\.tar"):
                    dataset.gather(np.zeros(50, int), np.arange(50))


@pytest.mark.parametrize("stages", [(), (*CLEANED, *ALL_STAGES)], ids=["plain", "cleaned"])
def test_no_text_is_left_by_a_prepare_that_was_killed(place, tmp_path, stages, secrets_of):
    arguments = [f"data.input={place / 'in'}", f"data.output={tmp_path / 'out'}", *PREPARED, *stages]
    arguments += [f"{KEY}={place / 'key'}"]
    draw, killed = random.Random(), False
    while not killed:
        with start_banyan(tmp_path, "prepare", *arguments, small_items=True) as process:
            killed = kill_after_files(process, tmp_path / "out", draw.randint(1, 12))
        (tmp_path / "run.py").unlink()
        assert not found(tmp_path, secrets_of)
        assert not (tmp_path / "out").exists() or not unencrypted(tmp_path / "out")
        if not killed:
            shutil.rmtree(tmp_path / "out")  # it came to its end: begin again
    with using(None):
        assert main(["prepare", *arguments]) == 0
    assert not found(tmp_path, secrets_of)
    assert not unencrypted(tmp_path / "out")
    assert not open_to_others(tmp_path / "out")
    if not stages:
        fingerprints = [read_manifest(folder / "train").fingerprint for folder in (tmp_path / "out", place / "plain")]
        assert fingerprints[0] == fingerprints[1]
        return
    with using(None):
        whole = [argument.replace(str(tmp_path / "out"), str(tmp_path / "whole")) for argument in arguments[:-1]]
        assert main(["prepare", *whole]) == 0
    assert (
        read_manifest(tmp_path / "out" / "train").fingerprint == read_manifest(tmp_path / "whole" / "train").fingerprint
    )


def test_rotation_survives_kills_and_the_old_key_opens_nothing(place, tmp_path, capsys):
    folder = tmp_path / "sealed"
    shutil.copytree(place / "sealed", folder)
    old, new = f"{KEY}={place / 'key'}", f"new.key_file={place / 'other'}"
    shards = {path: path.read_bytes() for path in folder.rglob("*.tar")}
    with using(None):
        assert main(["data", "rekey", str(folder), f"{KEY}={place / 'other'}", "new.key_env=NO_SUCH"]) == 2
        assert main(["data", "rekey", str(folder), old, new]) == 0
        assert main(["data", "rekey", str(folder), old, new]) == 0  # nothing is left to do
    assert shards == {path: path.read_bytes() for path in folder.rglob("*.tar")}
    with using(None):
        assert main(["data", "verify", str(folder), old]) == 2
    with using(None):
        assert main(["data", "verify", str(folder), f"{KEY}={place / 'other'}"]) == 0
    back = ["data", "rekey", folder, f"{KEY}={place / 'other'}", f"new.key_file={place / 'key'}", "full=true"]
    capsys.readouterr()
    for after_s in (0.0, 0.02):
        with start_banyan(tmp_path, *back) as process:
            before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
            while process.poll() is None and before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}:
                time.sleep(0.001)
            time.sleep(after_s)
            process.kill()
    banyan(tmp_path, *back)
    with using(None):
        assert main(["data", "verify", str(folder), old]) == 0
    assert len(json.loads((folder / "encryption.json").read_text())["keys"]) == 1
    assert not any(content == path.read_bytes() for path, content in shards.items())
    assert read_manifest(folder / "train").fingerprint == read_manifest(place / "plain" / "train").fingerprint


def test_the_cache_of_fetched_shards_holds_ciphertext(place, tmp_path, secrets_of):
    store = Store(place / "sealed")
    with served(type("Handler", (StoreHandler,), {"store": store})) as url, using(place / "key"):
        fetching = Fetching(cache=str(tmp_path / "cache"))
        dataset = open_dataset("train", url, key="data.path", split="train", sequence_length=32, fetching=fetching)
        plain = open_dataset("train", str(place / "plain"), key="data.path", split="train", sequence_length=32)
        shards, rows = np.repeat(np.arange(len(plain.rows.rows)), 3), np.tile(np.arange(3), len(plain.rows.rows))
        assert np.array_equal(dataset.gather(shards, rows), plain.gather(shards, rows))
    assert list((tmp_path / "cache").rglob("*.tar"))
    assert not found(tmp_path, secrets_of)
    assert not unencrypted(tmp_path, allowed=("lock", "absent"))


def test_an_index_of_others_tars_isnt_encrypted(place, tmp_path, capsys):
    words = ["data", "index", str(tmp_path / "a.tar"), f"data.output={tmp_path / 'index'}", f"{KEY}={place / 'key'}"]
    assert main(words) == 2
    assert "an index leaves others' tars as they are" in capsys.readouterr().err
