"""What a stranger's store says is checked before anything follows from it: nothing comes outside of data.output."""

import json
import shutil

import pytest

from tests.data.share.sets import change_record, copy_of, files_in, fingerprint_of, make_output, pull, push
from trainer.data.share import pull as pull_module
from trainer.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    output = make_output(folder)
    assert push(output, folder / "store") == 0
    return folder / "store" / fingerprint_of(output)


def refuse(place, tmp_path, said, wanted=None):
    """That a pull ends in a line, and leaves nothing outside of its folder."""
    before = outside(tmp_path)
    with pytest.raises((InputError, ConfigError), match=said) as error:
        pull(wanted or place.name, place.parent, tmp_path / "mine" / "set")
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert outside(tmp_path) == before
    return error.value


def outside(tmp_path):
    """All files but those of data.output."""
    return {name: content for name, content in files_in(tmp_path).items() if not name.startswith("mine/set/")}


def rename(place, path):
    def change(record):
        next(file for file in record["files"] if file["path"] == "LICENCES.md")["path"] = path

    change_record(place, change)


@pytest.mark.parametrize(
    "path",
    [
        "../escaped",
        "train/../../escaped",
        "/tmp/escaped",
        "train//x",
        "./x",
        ".bashrc",
        "train/.ssh/keys",
        "a\\b",
        "a\x00b",
        "a\x1b[2Jb",
        "a/b/c/d",
        "set.json",
        "x.partial",
        "train",
        "train/manifest.json",
        "TRAIN/manifest.json",
        "train/manifest.json/x",
        "n" * 300,
        "",
    ],
)
def test_a_path_that_is_no_file_of_the_set_is_refused_before_anything_is_written(place, tmp_path, path):
    place = copy_of(place, tmp_path / "store")
    rename(place, path)
    refuse(place, tmp_path, "not the description of a set|no bare name|longer than 255")
    assert not (tmp_path / "mine").exists()


def alter(**values):
    return lambda record: record.update(values)


def of_shard(name, value):
    def change(record):
        next(file for file in record["files"] if file["path"].endswith(".tar"))[name] = value

    return change


def without_shards(record):
    record["files"] = [file for file in record["files"] if not file["path"].endswith(".tar")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (alter(format="x"), '"format" isn\'t'),
        (alter(version=9), "version 9, this Banyan reads 1"),
        (alter(files="x"), "is no list"),
        (alter(fingerprint="0" * 64), "isn't that of its first manifest"),
        (alter(fingerprints={}), "it names no manifest"),
        (alter(fingerprints={"LICENCES.md": "0" * 64}), "is no manifest.json"),
        (alter(tokens=-1), "not within"),
        (of_shard("bytes", 2**60), "not within"),
        (of_shard("bytes", 2**50), "needs [0-9,]+ bytes more, and the disk has"),
        (of_shard("bytes", 10), "isn't among the files of the set"),
        (of_shard("sha256", "0" * 64), "isn't among the files of the set"),
        (without_shards, "isn't among the files of the set"),
    ],
)
def test_a_record_that_contradicts_itself_or_the_manifests_is_refused(place, tmp_path, change, said):
    place = copy_of(place, tmp_path / "store")
    change_record(place, change)
    refuse(place, tmp_path, said)
    assert not list((tmp_path / "mine").rglob("*.tar"))
    assert not (tmp_path / "mine" / "set").exists()


def test_a_set_under_another_name_is_refused(place, tmp_path):
    place = shutil.copytree(place, tmp_path / "store" / ("0" * 64))
    refuse(place, tmp_path, "its set.json is of another set")


def test_a_manifest_of_other_data_is_refused(place, tmp_path):
    import hashlib

    place = copy_of(place, tmp_path / "store")
    shutil.copy(place / "validation" / "manifest.json", place / "train" / "manifest.json")
    content = (place / "train" / "manifest.json").read_bytes()

    def change(record):
        file = next(file for file in record["files"] if file["path"] == "train/manifest.json")
        file.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    change_record(place, change)
    refuse(place, tmp_path, "the manifest is of other data")
    assert not (tmp_path / "mine" / "set").exists()


def test_json_that_is_deep_or_none_is_refused(place, tmp_path):
    for content in ("[" * 100_000, "{", "null", '{"format": 1, "format": 2}', "\udcff"):
        store = copy_of(place, tmp_path / "store")
        (store / "set.json").write_bytes(content.encode(errors="surrogateescape"))
        refuse(store, tmp_path, "not the description of a set")
        shutil.rmtree(tmp_path / "store")


def test_links_in_a_store_and_in_the_output_lead_nowhere(place, tmp_path):
    store = copy_of(place, tmp_path / "store")
    (tmp_path / "secret").write_text("key")
    shard = next((store / "train").glob("*.tar"))
    shutil.move(shard, tmp_path / "shard")
    shard.symlink_to(tmp_path / "shard")
    refuse(store, tmp_path, "it is a link, which a set has none of")
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine" / "set" / pull_module.PULLING).mkdir(parents=True)
    (tmp_path / "mine" / "set" / pull_module.PULLING / "set.json").write_bytes((place / "set.json").read_bytes())
    (tmp_path / "mine" / "set" / "train").symlink_to(tmp_path / "elsewhere")
    refuse(place, tmp_path, "it is a link; remove it")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_text_of_others_does_not_steer_the_terminal(place, tmp_path, capsys):
    from trainer.verbs.data import main

    place = copy_of(place, tmp_path / "store")

    def change(record):
        record["name"] = "a\x1b[2Jb"
        record["licences"][0]["source"] = "x\x1b]0;y\x07\nz"

    change_record(place, change)
    capsys.readouterr()
    assert main(["ls", str(place.parent)]) == 0
    assert pull(place.name, place.parent, tmp_path / "mine") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said
    assert json.loads((tmp_path / "mine" / "set.json").read_text())["name"] == "a\x1b[2Jb"
