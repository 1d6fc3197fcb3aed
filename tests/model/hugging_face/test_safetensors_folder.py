"""Headers and indexes of others: what is cut, absurd, contradictory or somewhere else ends in one line."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hugging_face import save_model
from trainer.errors import InputError
from trainer.model.hugging_face.init_folder import find_init_folder
from trainer.model.hugging_face.safetensors_folder import INDEX, SINGLE, find_tensors, holds_tensors


def header(**tensors):
    """A file's length and header, without values."""
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
FILES = {
    "nothing": b"",
    "half a length": b"\x08\x00\x00",
    "no header": (2).to_bytes(8, "little"),
    "a length beyond 64 bits": b"\xff" * 8 + b"{}",
    "a length of terabytes": (2**45).to_bytes(8, "little") + b"{}",
    "no JSON": (4).to_bytes(8, "little") + b"nope",
    "no object": (2).to_bytes(8, "little") + b"[]",
    "no values": header(a=ONE),
    "too few values": header(a=ONE) + b"1234",
    "too many values": header(a=ONE) + b"1" * 16,
    "negative offsets": header(a=ONE | {"data_offsets": [-8, 0]}) + b"1" * 8,
    "offsets beyond the file": header(a=ONE | {"data_offsets": [2**62, 2**62 + 8]}) + b"1" * 8,
    "offsets the wrong way": header(a=ONE | {"data_offsets": [8, 0]}) + b"1" * 8,
    "a shape of another size": header(a=ONE | {"shape": [3]}) + b"1" * 8,
    "a shape beyond 64 bits": header(a=ONE | {"shape": [2**62, 2**62]}) + b"1" * 8,
    "a negative shape": header(a=ONE | {"shape": [-1, -2]}) + b"1" * 8,
    "an unknown dtype": header(a=ONE | {"dtype": "X7"}) + b"1" * 8,
    "tensors over one another": header(a=ONE, b=ONE) + b"1" * 8,
    "deep JSON": (20_000).to_bytes(8, "little") + b'{"a":' * 4_000,
}


def refuse(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        find_tensors(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / SINGLE).write_bytes(content)
    refuse(tmp_path, match=f"{SINGLE}: can't be read as safetensors")
    (tmp_path / SINGLE).rename(tmp_path / "a.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    refuse(tmp_path, match="a.safetensors: can't be read as safetensors")


INDEXES = {
    "no JSON": ("{", "can't be read as JSON"),
    "no object": ([], "no JSON object"),
    "no weight_map": ({"metadata": {}}, "no weight_map"),
    "a list": ({"weight_map": ["a"]}, "no weight_map"),
    "nothing": ({"weight_map": {}}, "no weight_map"),
    "null": ({"weight_map": None}, "no weight_map"),
    "a number": ({"weight_map": {"a": 1}}, "1 stands where the name of a file"),
    "a path up": ({"weight_map": {"a": "../x.safetensors"}}, r"'../x.safetensors' is no bare name"),
    "a path down": ({"weight_map": {"a": "deeper/x.safetensors"}}, "is no bare name"),
    "an absolute path": ({"weight_map": {"a": "/etc/x.safetensors"}}, "is no bare name"),
    "a folder": ({"weight_map": {"a": "."}}, "is no bare name"),
    "a file that isn't there": ({"weight_map": {"a": "y.safetensors"}}, "y.safetensors isn't there"),
    "a tensor that isn't there": ({"weight_map": {"a": "x.safetensors", "z": "x.safetensors"}}, "z isn't in x.safe"),
    "a tensor elsewhere": (
        {"weight_map": {"a": "x.safetensors", "b": "x.safetensors", "c": "w.safetensors"}},
        "b isn't",
    ),
    "a tensor twice": (
        {"weight_map": {"a": "x.safetensors", "c": "v.safetensors"}},
        "a is in x.safetensors and in v.s",
    ),
}


@pytest.mark.parametrize(("index", "reason"), INDEXES.values(), ids=INDEXES)
def test_broken_indexes_are_named(tmp_path, index, reason):
    folder = tmp_path / "model"
    (folder / "deeper").mkdir(parents=True)
    for place in ("x", "../x", "deeper/x"):
        save_file({"a": torch.ones(2)}, folder / f"{place}.safetensors")
    save_file({"b": torch.ones(2), "c": torch.ones(2)}, folder / "w.safetensors")
    save_file({"a": torch.ones(2), "c": torch.ones(2)}, folder / "v.safetensors")
    (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    refuse(folder, match=reason)


def test_one_file_goes_before_an_index_as_in_transformers(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / SINGLE)
    (tmp_path / INDEX).write_text("{")
    assert find_tensors(tmp_path)["a"].shape == (2,)


def test_links_of_a_cache_are_followed(tmp_path):
    """As in ~/.cache/huggingface, where snapshots are links to blobs."""
    save_model(tmp_path / "blobs", "llama", shard="30KB")
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert find_init_folder(str(tmp_path / "snapshot")).architecture["hidden_size"] == 48


@pytest.mark.parametrize("length", [7, 8, 100, -1])
def test_a_file_that_was_cut_is_named_before_anything_starts(tmp_path, length):
    save_model(tmp_path, "llama")
    content = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(content[:length])
    with pytest.raises(InputError, match=f"{SINGLE}: can't be read as safetensors"):
        find_init_folder(str(tmp_path))


def test_names_in_a_file_are_shown_short_and_harmless(tmp_path):
    save_model(tmp_path, "llama")
    tensors = load_file(tmp_path / SINGLE)
    save_file(tensors | {"\x1b[2J\n" + "x" * 10_000: torch.ones(1)}, tmp_path / SINGLE)
    with pytest.raises(InputError, match="has no place") as caught:
        find_init_folder(str(tmp_path))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_what_must_have_been_weights_is_not_left_aside(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(InputError, match="fetch the file again"):
        holds_tensors(tmp_path)


def test_parts_without_an_index_are_not_left_aside(tmp_path):
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(InputError, match="fetch it as well"):
        holds_tensors(tmp_path)
