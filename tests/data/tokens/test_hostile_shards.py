"""Datasets that were written, or damaged, by an enemy: a line for each, and never another token."""

import json
import os
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.corpus import make_dataset
from tests.data.tokens.broken import edit_manifest, error_line
from trainer.config import Data
from trainer.data.tokens.dataset import find_damage, open_dataset
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.manifest import read_manifest, write_manifest
from trainer.data.tokens.open_files import MOST_OPEN, OpenFile, OpenFiles
from trainer.data.tokens.shard_index import build_index, index_path, write_index
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.verify import verify
from trainer.verbs.data import main


@pytest.fixture
def old(copy):
    """A dataset of an earlier version, whose manifest has no hashes of indices, to break."""
    edit_manifest(copy, lambda content: content.update(version=1))
    edit_manifest(copy, lambda content: [shard.pop("index_sha256") for shard in content["shards"]])
    return copy


def look(folder):
    """Everything that opening a dataset, and looking at it, does."""
    dataset = open_dataset("train", str(folder), key="data.path", split="train", sequence_length=16)
    for verb in ("show", "stats"):
        main([verb, str(folder)])
    for shard in range(len(dataset.shards)):
        dataset.row(shard, 0)


def tokens_of(folder):
    return [reader.read(0, reader.tokens).tolist() for reader in open_shards(read_manifest(folder))]


# ----------------------------------------------------------------------------------------------------------- index

TOKENS_OFFSET, TOKENS, DOCUMENTS, LENGTHS_OFFSET, DOCUMENTS_OFFSET, DOCUMENTS_BYTES = range(6)


def shift(index):
    index[1, TOKENS_OFFSET] -= 2


def move_a_token(index):
    """The sum and every padded size stay as they are."""
    index[0, TOKENS] += 1
    index[1, TOKENS] -= 1


def move_a_document(index):
    index[0, DOCUMENTS] += 1
    index[1, DOCUMENTS] -= 1


def swap(index):
    index[[0, 1]] = index[[1, 0]]


def shift_lengths(index):
    index[:, LENGTHS_OFFSET] += 4


def shift_all(index):
    index[:, [TOKENS_OFFSET, LENGTHS_OFFSET, DOCUMENTS_OFFSET]] += 512


def shorten(index):
    index[0, DOCUMENTS_BYTES] -= 1


INDEX_LIES = [shift, move_a_token, move_a_document, swap, shift_lengths, shift_all, shorten]


@pytest.mark.parametrize("lie", INDEX_LIES)
def test_an_index_that_points_a_little_elsewhere_is_refused_at_opening(copy, lie):
    tar = copy / "shard-000001.tar"
    index = np.load(index_path(tar))
    lie(index)
    write_index(tar, index)
    assert f'run "banyan data index {copy}"' in error_line(look, copy)
    assert main(["index", str(copy)]) == 0
    assert main(["verify", str(copy)]) == 0


@pytest.mark.parametrize("lie", INDEX_LIES)
def test_an_index_without_a_hash_is_compared_with_the_tar(old, lie, capsys):
    look(old)
    tar = old / "shard-000001.tar"
    index = np.load(index_path(tar))
    lie(index)
    write_index(tar, index)
    assert f'run "banyan data index {old}"' in error_line(look, old)
    assert main(["index", str(old)]) == main(["verify", str(old)]) == 0


def test_large_shards_without_hashes_are_sampled_when_opened_and_read_where_shards_are_hashed(old, monkeypatch):
    monkeypatch.setattr("trainer.data.tokens.shard_index.SAMPLED_BLOCKS", 1)
    tar = old / "shard-000001.tar"
    index = np.load(index_path(tar))
    move_a_token(index)
    write_index(tar, index)
    opened = open_dataset("train", str(old), key="data.path", split="train", sequence_length=16)
    assert "shard-000001.index: the index doesn't fit" in find_damage(opened, part=0, parts=1)
    assert [find_damage(opened, part=part, parts=3) is None for part in range(3)] == [True, False, True]
    shift(index)
    write_index(tar, index)
    assert "doesn't fit" in error_line(open_shards, read_manifest(old))


def test_datasets_of_the_former_version_are_the_same_data(dataset, copy):
    before, tokens = read_manifest(copy), tokens_of(copy)
    edit_manifest(copy, lambda content: content.update(version=1))
    edit_manifest(copy, lambda content: [shard.pop("index_sha256") for shard in content["shards"]])
    assert read_manifest(copy).fingerprint == before.fingerprint
    assert tokens_of(copy) == tokens
    assert verify(read_manifest(copy)) == []
    edit_manifest(copy, lambda content: content.update(version=2))
    assert "index_sha256 is missing" in error_line(read_manifest, copy)


def test_a_tar_of_another_layout_is_read_if_its_index_fits(old):
    """Somebody wrote the same members with GNU tar, which pads archives."""
    tar = old / "shard-000000.tar"
    wanted = tokens_of(old)
    with open(tar, "ab") as file:
        file.write(b"\0" * 8192)
    shards = list(read_manifest(old).shards)
    shards[0] = replace(shards[0], bytes=tar.stat().st_size)
    write_manifest(replace(read_manifest(old), shards=tuple(shards)))
    edit_manifest(old, lambda content: content.update(version=1))
    assert tokens_of(old) == wanted


def npy(descr="<i8", shape="(2, 6)", data=b"\0" * 96):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy()[:-1],
        npy(shape="(1000000000000, 6)"),
        npy(shape="(9223372036854775807, 6)"),
        npy(shape="(-2, 6)"),
        npy(shape="(-2, -6)"),
        npy(shape="(2, 6.0)"),
        npy(shape="12"),
        npy(shape="[2, 6]"),
        npy(shape="(" + "1," * 500 + ")"),
        npy(descr="|O"),
        npy(descr="|V0", shape="(10**9, 6)"),
        npy(descr="<f8"),
        npy(descr=">i8"),
        npy(descr="<M8[s]"),
        npy(descr="nonsense"),
        npy(descr=[("a", "<i8")]),
        npy(shape="(2, 6), 'more': 1"),
        npy(shape="__import__('os').system('true')"),
        npy(shape="(" * 200 + ")" * 200),
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x04N.",
        npy() + b"\0" * 10**6,
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_an_index_that_is_no_array_of_ours_is_refused(copy, content, version):
    if version == 1:
        edit_manifest(copy, lambda content: content.update(version=1))
        edit_manifest(copy, lambda content: [shard.pop("index_sha256") for shard in content["shards"]])
    (copy / "shard-000000.index").write_bytes(content)
    line = error_line(look, copy)
    assert "shard-000000.index" in line
    assert f'banyan data index {copy}"' in line
    assert any("shard-000000.index" in problem for problem in verify(read_manifest(copy)))


@pytest.mark.parametrize("value", [-1, 2**40, 2**62, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("column", range(6))
def test_absurd_numbers_in_an_index_are_refused(old, column, value):
    tar = old / "shard-000000.tar"
    index = np.load(index_path(tar))
    index[0, column] = value
    write_index(tar, index)
    assert "shard-000000" in error_line(look, old)
    index[0, column] = value
    index[1, column] = -value if value != -(2**63) else value
    write_index(tar, index)
    assert "shard-000000" in error_line(look, old)


# ------------------------------------------------------------------------------------------------- other than files


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "dangling", "loop"])
@pytest.mark.parametrize(
    "name", ["manifest.json", "shard-000001.tar", "shard-000001.index", "tokenizer/tokenizer.json"]
)
def test_what_is_no_regular_file_is_refused_at_once(copy, name, kind):
    path = copy / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "dangling": "nowhere", "loop": path.name}[kind])
    assert path.name in error_line(look, copy)
    if name == "manifest.json":
        error_line(main, ["verify", str(copy)])
    else:
        assert main(["verify", str(copy)]) == 2


@pytest.mark.parametrize("damage", ["missing", "dangling", "fifo"])
def test_a_half_of_an_output_whose_manifest_is_gone_isnt_passed_over(copy, tmp_path, damage):
    output = tmp_path / "output"
    for split in ("train", "validation"):
        shutil.copytree(copy, output / split)
    manifest = output / "train" / "manifest.json"
    manifest.unlink()
    if damage != "missing":
        os.mkfifo(manifest) if damage == "fifo" else manifest.symlink_to("nowhere")
    for verb in ("verify", "stats", "show", "index"):
        assert "train/manifest.json" in error_line(main, [verb, str(output)])


# -------------------------------------------------------------------------------------------------------- manifest


def in_tokenizer(**changes):
    return lambda content: content["tokenizer"].update(**changes)


def in_shard(**changes):
    return lambda content: content["shards"][0].update(**changes)


def consistently(**changes):
    """Changes a shard and the totals with it."""

    def change(content):
        for key, value in changes.items():
            content[key] += value - content["shards"][0][key]
            content["shards"][0][key] = value

    return change


BROKEN_MANIFESTS = [
    in_tokenizer(vocab_size=-1),
    in_tokenizer(vocab_size=0),
    in_tokenizer(vocab_size=2**31),
    in_tokenizer(vocab_size=300.0),
    in_tokenizer(vocab_size="300"),
    in_tokenizer(vocab_size=True),
    in_tokenizer(vocab_size=70_000),
    in_tokenizer(vocab_size=30_000),  # more than tokenizer.json has bytes
    in_tokenizer(end_of_text=-1),
    in_tokenizer(end_of_text=300),
    in_tokenizer(end_of_text=None),
    in_tokenizer(sha256="../../x"),
    in_tokenizer(sha256="A" * 64),
    in_tokenizer(special_ids=[]),
    in_tokenizer(special_ids={"a": -1}),
    in_tokenizer(special_ids={"a": 2**70}),
    in_tokenizer(name=None),
    *(in_shard(file=name) for name in ("../x.tar", "/x", "a/b", "", ".", "..", "x\n", "\x1b[2J", "n" * 256, 3, None)),
    in_shard(file="shard-000001.tar"),
    in_shard(sha256=""),
    in_shard(index_sha256=None),
    in_shard(index_sha256="0"),
    in_shard(more=1),
    consistently(tokens=2**60),
    consistently(tokens=-1),
    consistently(documents=10**9),
    consistently(documents=-5),
    consistently(text_bytes=2**63),
    consistently(text_bytes=-1),
    in_shard(bytes=10),
    in_shard(bytes=-1),
    in_shard(bytes=1e30),
    lambda content: content.update(shards={}),
    lambda content: content.update(shards=[[]]),
    lambda content: content.update(shards=None),
    lambda content: content.update(tokens="7"),
    lambda content: content.update(version=True),
    lambda content: content.update(version=1.0),
    lambda content: content.update(version=[2]),
    lambda content: content.update(version="2\n\x1b[2J"),
    lambda content: content.update(format=["banyan-token-shards"]),
    lambda content: content.update(dtype="object"),
    lambda content: content.update(dtype="uint32" * 1000),
    lambda content: content.update(dtype=["uint16"]),
    lambda content: content.update(rejected=[]),
    lambda content: content.update(rejected={"why": -1}),
    lambda content: content.update(documents_read=float("nan")),
    lambda content: content.update(sources=[{"input": "x", "licence": 1, "files": []}]),
    lambda content: content.update(sources=[{"input": "x", "licence": None, "files": "abc"}]),
    lambda content: content.update(sources=[]),  # documents come from one
    lambda content: content.update(prepared=[]),
    *(lambda content, key=key: content.pop(key) for key in ("tokenizer", "shards", "dtype", "sources", "prepared")),
]


def sign(folder):
    """Makes the fingerprint fit, as an enemy would."""
    from trainer.data.tokens.manifest import ManifestRecord, _manifest
    from trainer.machine.json_file import Malformed, from_known

    try:
        fingerprint = _manifest(
            folder, from_known(ManifestRecord, json.loads((folder / "manifest.json").read_text()))
        ).fingerprint
    except (Malformed, ValueError):
        return
    edit_manifest(folder, lambda content: content.update(fingerprint=fingerprint))


@pytest.mark.parametrize("change", BROKEN_MANIFESTS)
def test_a_manifest_that_cant_be_is_refused(copy, change, capsys):
    edit_manifest(copy, change)
    sign(copy)
    assert str(copy) in error_line(look, copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"x"',
        b"\xff",
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b'{"format": 1, "format": 2}',
        b"\0" * 99,
    ],
)
def test_a_manifest_that_is_no_json_is_refused(copy, content):
    (copy / "manifest.json").write_bytes(content)
    assert "manifest.json" in error_line(look, copy)


# ------------------------------------------------------------------------------------------------- inside of shards


def rewrite(folder, change):
    """Shard 0 with its first block changed, and a manifest that fits."""
    manifest = read_manifest(folder)
    reader = open_shards(manifest)[0]
    blocks = [reader.block(number) for number in range(len(reader.index))]
    shard = write_shard(folder / "shard-000000.tar", [change(blocks[0]), *blocks[1:]], dtype="uint16")
    write_manifest(replace(manifest, shards=(shard, *manifest.shards[1:])))


@pytest.mark.parametrize(
    "change",
    [
        lambda block: replace(block, lengths=block.lengths + 1),
        lambda block: replace(block, lengths=np.concatenate([block.lengths[:-2], [0, block.lengths[-2:].sum()]])),
        lambda block: replace(block, documents=block.documents[:1]),
        lambda block: replace(block, documents=[replace(block.documents[0], source=10**9), *block.documents[1:]]),
        lambda block: replace(block, documents=[replace(block.documents[0], record="1\n"), *block.documents[1:]]),
        lambda block: replace(block, tokens=block.tokens + 60_000),
    ],
)
def test_a_shard_whose_contents_contradict_each_other_is_refused_where_it_is_read(copy, change, capsys):
    rewrite(copy, change)
    assert str(copy) in error_line(look, copy)
    assert main(["verify", str(copy)]) == 2


def test_a_shard_that_changes_while_it_is_read_is_refused(copy):
    reader = open_shards(read_manifest(copy))[0]
    reader.read(0, 5)
    path = copy / "shard-000000.tar"
    os.truncate(path, 100)
    reader.close()
    assert "has changed" in error_line(reader.read, 0, 5)


# ------------------------------------------------------------------------------------------------ many open files


def test_the_most_recently_used_files_stay_open_and_views_outlive_them(tmp_path):
    files = []
    for number in range(6):
        (tmp_path / str(number)).write_bytes(bytes([number] * 100))
        files.append(OpenFile(tmp_path / str(number)))
    opened = OpenFiles(most=3)
    views = [opened.get(file)[10:20] for file in files]
    assert [view.tolist() for view in views] == [[number] * 10 for number in range(6)]
    assert opened.get(files[5]) is opened.get(files[5])
    assert list(opened._maps) == [files[3], files[4], files[5]]
    opened.get(files[3])
    opened.get(files[0])
    assert list(opened._maps) == [files[5], files[3], files[0]]


def test_more_shards_than_descriptors_are_read(tmp_path):
    """Training, validation and looking go through all of them, in any order, with few descriptors left."""
    count = MOST_OPEN + 60
    make_dataset(tmp_path / "many", documents=2 * count, shards=count)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + MOST_OPEN + 20, hard))
        (training,) = open_training(Data(path=str(tmp_path / "many"), sequence_length=16))
        for _ in range(2):
            for shard in range(count):
                training.row(shard, 0)
        assert find_damage(training, part=0, parts=1) is None
        assert main(["stats", str(tmp_path / "many")]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_build_index_refuses_another_kind_of_tokens(copy):
    assert "uint16" in error_line(build_index, copy / "shard-000000.tar", "uint32")
