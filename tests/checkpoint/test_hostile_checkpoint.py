"""Checkpoints that were written by an enemy: a line for each, nothing outside is read or written, nothing hangs."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.checkpoint.version_1 import write_version_1
from tests.checkpoint.written import WEIGHT, Alone, open_writer, pieces, write_as_ranks, write_checkpoint
from tests.data.tokens.broken import error_line
from trainer.checkpoint.complete import describe
from trainer.checkpoint.find import find_checkpoint, find_problem
from trainer.checkpoint.folders import folder_of, list_steps, step_of
from trainer.checkpoint.index import INDEX
from trainer.checkpoint.object_store import ObjectStore
from trainer.checkpoint.reader import CheckpointReader, read_weights
from trainer.checkpoint.retention import retain
from trainer.data.tokens.history import History
from trainer.data.tokens.order import PERIOD
from trainer.engine.loop import Progress
from trainer.errors import ConfigError, InputError, StorageError
from trainer.verbs.checkpoint import main

HISTORY = {
    "segments": [{"first": 0, "shares": {"train": {"fingerprint": "f", "weight": PERIOD, "start": 0}}}],
    "stretches": [{"step": 0, "position": 0, "batch_size": 4}],
}
STATE = {
    "position": 12,
    "tokens": 768,
    "progress": Progress(step=3, position=12, tokens=768, best_loss=2.5, best_step=2).to_json(),
    "shape": {"world_size": 1, "zero_stage": 0, "tensor": 1, "sequence": 1, "hpz": 1},
    "config": {
        "train": {"precision": "fp32"},
        "model": {"name": "tiny", "path": None},
        "data": {},
        "checkpoint": {"fork_from": None},
    },
    "history": HISTORY,
    "tokenizer_sha256": "a" * 64,
    "time": 1.7e9,
}


@pytest.fixture
def folder(tmp_path):
    """A whole checkpoint of step 3, to break."""
    return write_checkpoint(tmp_path / "run", 3, **STATE)


def edit(path, change):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def sign(folder):
    """Makes COMPLETE fit the files, as an enemy would."""
    edit(folder / "COMPLETE", lambda old: {"files": {name: describe(folder / name) for name in old["files"]}})


def look(folder):
    """All that a reader can be asked for. InputError if it refuses."""
    problem = find_problem(folder)
    if problem:
        raise InputError(problem)
    reader = CheckpointReader(folder)
    reader.stated("progress", Progress.from_json)
    reader.stated("history", History.from_json)
    for _ in read_weights(folder):
        pass


def test_whole_one_is_read(folder, capsys):
    look(folder)
    assert main(["verify", str(folder)]) == main(["list", str(folder)]) == main(["show", str(folder)]) == 0
    assert "best loss    2.5000 at step 2" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ names and sizes

NAMES = ["../x", "../../../x", "/tmp/x", "a/b", "", ".", "..", "x\n", "\x1b[2J", "a\\b", "n" * 300, "COMPLETE"]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_complete_lead_nowhere(folder, name):
    edit(folder / "COMPLETE", lambda content: content["files"].update({name: content["files"]["state.json"]}))
    told = error_line(look, folder)
    assert "COMPLETE" in told
    assert main(["verify", str(folder)]) == 2


@pytest.mark.parametrize("name", NAMES)
def test_names_in_complete_of_a_store_write_nothing_outside(folder, tmp_path, name):
    url = f"file://{tmp_path / 'deep' / 'er' / 'store'}"
    ObjectStore(url).upload_if_missing(folder, Alone())
    there = tmp_path / "deep" / "er" / "store" / "step-00000003"
    victim = tmp_path / "x"
    victim.write_text("precious")
    for planted in (tmp_path / "deep" / "x", tmp_path / "deep" / "er" / "x", there.parent / "x"):
        planted.write_text("evil")
    evil = describe(tmp_path / "deep" / "x")
    edit(there / "COMPLETE", lambda content: content["files"].update({name: evil}))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    told = error_line(ObjectStore(url).fetch_newest, tmp_path / "a" / "b" / "run", Alone(), look)
    assert "not whole" in told
    assert "throw it away" in told
    assert victim.read_text() == "precious"
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list((tmp_path / "a" / "b" / "run").rglob("*"))


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname"])
def test_nothing_outside_is_copied_to_a_store(folder, tmp_path, name):
    (tmp_path / "run" / "secret").write_text("secret")
    edit(folder / "COMPLETE", lambda content: content["files"].update({name: describe(tmp_path / "run" / "secret")}))
    with pytest.raises(StorageError, match="COMPLETE"):
        ObjectStore(f"file://{tmp_path / 'store'}").upload_if_missing(folder, Alone())
    assert not list((tmp_path / "store").rglob("*"))


@pytest.mark.parametrize("damage", ["larger", "smaller", "claims all", "device", "fifo", "folder", "complete"])
def test_sizes_are_looked_at_before_anything_is_fetched(folder, tmp_path, damage):
    url = f"file://{tmp_path / 'store'}"
    ObjectStore(url).upload_if_missing(folder, Alone())
    there = tmp_path / "store" / "step-00000003"
    tensors = there / "rank-00000.safetensors"
    if damage in ("larger", "smaller"):
        os.truncate(tensors, tensors.stat().st_size + (2**40 if damage == "larger" else -1))
    elif damage == "claims all":
        edit(there / "COMPLETE", lambda content: content["files"]["state.json"].update(bytes=2**50))
    elif damage == "complete":
        os.truncate(there / "COMPLETE", 2**40)
    else:
        tensors.unlink()
        {
            "device": lambda: tensors.symlink_to("/dev/zero"),
            "fifo": lambda: os.mkfifo(tensors),
            "folder": tensors.mkdir,
        }[damage]()
    assert "not whole" in error_line(ObjectStore(url).fetch_newest, tmp_path / "other", Alone(), look)
    assert not list((tmp_path / "other").rglob("step-*"))
    own = write_checkpoint(tmp_path / "other", 2, **STATE)
    (line,) = ObjectStore(url).fetch_newest(tmp_path / "other", Alone(), look)
    assert "not whole" in line
    assert list((tmp_path / "other" / "checkpoints").iterdir()) == [own]


def test_a_store_of_another_run_is_refused_and_leaves_nothing(folder, tmp_path):
    url = f"file://{tmp_path / 'store'}"
    ObjectStore(url).upload_if_missing(folder, Alone())

    def refuse(attempt):
        assert CheckpointReader(attempt).state["step"] == 3
        raise ConfigError(f"{attempt}: seed: 0 → 1 can't change")

    with pytest.raises(ConfigError, match=r"checkpoint.dir=file:.*step-00000003 there isn't this run's, .*seed: 0 → 1"):
        ObjectStore(url).fetch_newest(tmp_path / "other", Alone(), refuse)
    assert not list((tmp_path / "other").rglob("step-*"))


def test_links_that_lead_out_are_refused(folder, tmp_path):
    tensors = folder / "rank-00000.safetensors"
    shutil.move(tensors, tmp_path / "elsewhere")
    tensors.symlink_to(tmp_path / "elsewhere")
    assert "leads out of the folder" in error_line(look, folder)
    shutil.move(tmp_path / "elsewhere", folder / "inside")
    tensors.unlink()
    tensors.symlink_to("inside")
    look(folder)


def test_a_newer_one_that_is_broken_is_told_of(folder, tmp_path, capsys):
    broken = write_checkpoint(tmp_path / "run", 4, **STATE)
    (broken / "COMPLETE").write_text("{")
    assert find_checkpoint(tmp_path / "run", None) == folder
    assert f"{broken}: not whole (COMPLETE is damaged" in capsys.readouterr().err


def test_retention_removes_nothing_behind_a_link(folder, tmp_path):
    other = tmp_path / "other"
    for step in (4, 5):
        write_checkpoint(other, step)
    folder_of(other, 2).symlink_to(folder)
    retain(other, keep=1, keep_every=0, best=None)
    assert find_problem(folder) is None
    assert list_steps(other) == [2, 5]


def test_files_that_complete_doesnt_name_dont_count(folder):
    (folder / "rank-00001.safetensors").write_text("garbage")
    (folder / "rank-00001.json").write_text("garbage")
    look(folder)
    assert main(["verify", str(folder)]) == 0


# ---------------------------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"files": []}',
        b'{"files": {}}',
        b'{"files": {"state.json": null}}',
        b'{"files": {"state.json": {"bytes": "1", "xxh3_128": "0"}}}',
        b'{"files": {"state.json": {"bytes": -1, "xxh3_128": "00000000000000000000000000000000"}}}',
        b'{"files": {"state.json": {"bytes": 1e400, "xxh3_128": "00000000000000000000000000000000"}}}',
        b'{"files": {"state.json": {"bytes": NaN, "xxh3_128": "00000000000000000000000000000000"}}}',
        b'{"files": {"state.json": {"bytes": 1}}}',
        b'{"files": {"state.json": {"bytes": 1, "parts": []}}}',
        b'{"files": {"state.json": {"bytes": 1, "parts": [{"bytes": 1}]}}}',
        b'{"files": {"state.json": {"bytes": 0, "xxh3_128": "00000000000000000000000000000000", "parts": []}}}',
        b'{"files": {"state.json": {"bytes": -1, "parts": [{"bytes": -1, "xxh3_128": "%s"}]}}}' % (b"0" * 32),
        b'{"files": {"rank-00000.json": {"bytes": 1, "xxh3_128": "00000000000000000000000000000000"}}}',
        b"[" * 10**6,
        b'{"files": ' * 1000,
        b'{"files": {}, "files": {}}',
        b"9" * 10_000,
    ],
)
def test_complete_that_is_none_is_damaged(folder, content, capsys):
    (folder / "COMPLETE").write_bytes(content)
    assert "damaged" in error_line(look, folder)
    assert main(["verify", str(folder)]) == 2
    assert main(["list", str(folder)]) == 0
    assert "damaged" in error_line(main, ["show", str(folder)])
    assert capsys.readouterr().out.isascii()


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "dangling", "closed", "folder is a file"])
@pytest.mark.parametrize("name", ["COMPLETE", "state.json", "index.safetensors", "rank-00000.safetensors"])
def test_what_is_no_regular_file_is_refused_at_once(folder, name, kind, capsys):
    path = folder / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("device", "dangling"):
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    elif kind == "folder is a file":
        shutil.rmtree(folder)
        folder.write_text("")
    assert error_line(look, folder)
    for verb in ("verify", "list", "show"):
        with contextlib.suppress(InputError):
            main([verb, str(folder.parents[1])])
    capsys.readouterr()


BROKEN_STATES = [
    lambda state: state.update(step=4),
    lambda state: state.update(step="3"),
    lambda state: state.update(step=2**70),
    lambda state: state.update(format="1"),
    lambda state: state.update(format=[1]),
    lambda state: state.update(format=0),
    lambda state: state.update(format=3),
    lambda state: state.update(format=True),
    lambda state: state.update(format=1),
    lambda state: state.update(tokens=None),
    lambda state: state.update(time=float("inf")),
    lambda state: state.update(time=1e200),
    lambda state: state.update(tokenizer_sha256="../../x"),
    lambda state: state.update(shape=[]),
    lambda state: state["shape"].update(world_size=-1),
    lambda state: state["shape"].update(zero_stage="0"),
    lambda state: state["shape"].update(tensor=[]),
    lambda state: state.pop("config"),
    lambda state: state["config"].update(train=[]),
    lambda state: state["config"].update(model={"name": "a\nb"}),
    lambda state: state["config"].pop("data"),
    lambda state: state["config"]["train"].update(precision=None),
    lambda state: state.update(progress=None),
    lambda state: state["progress"].update(step=None),
    lambda state: state["progress"].update(best_loss="nan"),
    lambda state: state["progress"].update(best_loss=float("nan")),
    lambda state: state["progress"].update(out_of_patience="yes"),
    lambda state: state["progress"].update(more=1),
    lambda state: state.update(history=[]),
    lambda state: state["history"].update(segments=[]),
    lambda state: state["history"].update(stretches=[]),
    lambda state: state["history"].update(stretches=[{"step": 0, "position": 0, "batch_size": 0}]),
    lambda state: state["history"].update(stretches=2 * HISTORY["stretches"]),
    lambda state: state["history"]["segments"][0].update(first=1),
    lambda state: state["history"]["segments"][0].update(shares={}),
    lambda state: state["history"]["segments"][0]["shares"]["train"].update(weight=1),
    lambda state: state["history"]["segments"][0]["shares"]["train"].update(start=2**63),
    lambda state: [state],
]


@pytest.mark.parametrize("change", BROKEN_STATES)
def test_a_state_that_cant_be_is_refused(folder, change, capsys):
    state = json.loads((folder / "state.json").read_text())
    changed = change(state)
    (folder / "state.json").write_text(json.dumps(changed if changed == [state] else state))
    sign(folder)
    assert str(folder) in error_line(look, folder)
    assert main(["verify", str(folder)]) == 2
    assert main(["list", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 3


BROKEN_FRAGMENTS = [
    lambda fragment: fragment.update(file="../rank-00000.safetensors"),
    lambda fragment: fragment.update(file="/etc/passwd"),
    lambda fragment: fragment.update(file="unnamed.safetensors"),
    lambda fragment: fragment.update(tensor="another"),
    lambda fragment: fragment.update(tensor="\x1b[2J"),
    lambda fragment: fragment.update(parameter=["odd"]),
    lambda fragment: fragment.update(parameter="a\nb"),
    lambda fragment: fragment.update(shape=[2**40, 2**40]),
    lambda fragment: fragment.update(shape=[-9, -7]),
    lambda fragment: fragment.update(shape=[1] * 10_000),
    lambda fragment: fragment.update(shape=None),
    lambda fragment: fragment.update(shape=[9.0, 7.0]),
    lambda fragment: fragment.update(start=-5),
    lambda fragment: fragment.update(start=60, stop=10),
    lambda fragment: fragment.update(stop=64),
    lambda fragment: fragment.update(stop=62),
    lambda fragment: fragment.update(stop=2**63),
    lambda fragment: fragment.update(slice={"dim": 5, "start": 0, "stop": 1}),
    lambda fragment: fragment.update(slice={"dim": 0, "start": 3, "stop": 1}),
    lambda fragment: fragment.update(slice={"dim": 0}),
    lambda fragment: fragment.update(slice=[0, 0, 9]),
    lambda fragment: fragment.pop("kind"),
    lambda fragment: fragment.clear(),
]


@pytest.fixture
def old(tmp_path):
    """A whole checkpoint of version 1."""
    return write_version_1(tmp_path / "old", 3, [pieces()], **STATE)


@pytest.mark.parametrize("change", BROKEN_FRAGMENTS)
def test_fragments_of_version_1_that_cant_be_are_refused(old, change):
    look(old)
    edit(old / "rank-00000.json", lambda content: [change(each) for each in content["fragments"][:1]] and content)
    sign(old)
    error_line(look, old)
    assert main(["verify", str(old)]) == 2


def test_version_1_may_not_call_itself_version_2(old):
    edit(old / "state.json", lambda state: state.update(format=2))
    sign(old)
    assert "index.safetensors: missing" in error_line(look, old)


def put(name, value):
    """Changes a column's first rows to `value`, which may be longer."""

    def change(columns, names):
        columns[name] = np.array(value, dtype=columns[name].dtype)

    return change


def name(**fields):
    """Changes what numbers refer to."""
    return lambda columns, names: names.update(fields)


def doubled(columns, names):
    """Every row again."""
    for key in set(columns) - {"file"}:
        columns[key] = np.repeat(columns[key], 2)


def cut_in_two(columns, names, middle=4, second=1, dim=0):
    """A parameter of which the second half is another slice's."""
    names["slices"] = [
        {"dim": 0, "start": 0, "stop": middle},
        {"dim": dim, "start": second, "stop": 9 if dim == 0 else 7},
    ]
    columns.update({key: np.repeat(columns[key], 2) for key in set(columns) - {"file"}})
    columns["slice"][:] = [0, 1, 0, 1]
    columns["size"][:] = [7 * middle, 7 * (9 - second), 7 * middle, 7 * (9 - second)]


def some_left_out_and_as_many_twice(columns, names):
    """Pieces whose sizes sum up to the parameter's, so that counting elements would find nothing."""
    columns.update({key: np.repeat(columns[key], [3, 1]) for key in set(columns) - {"file"}})
    columns["start"][:], columns["size"][:], columns["offset"][:] = [0, 15, 40, 0], [20, 20, 23, 63], [0, 20, 40, 63]


# The checkpoint has two rows, of (63) fp32 and (63) exp_avg, in one file of 8,192 bytes, of which 4,096 are header
BROKEN_INDEXES = {
    "no file of the folder": (name(files=["../rank-00000.safetensors"]), "isn't named by COMPLETE"),
    "a file outside": (name(files=["/etc/passwd"]), "isn't named by COMPLETE"),
    "a file that isn't tensors": (name(files=["state.json"]), "state.json: Error while deserializing header"),
    "a file that is none": (put("file", [1]), "file[0]: 1 can't be"),
    "a file below zero": (put("file", [-1]), "file[0]: -1 can't be"),
    "no files": (name(files=[]), "file[0]: 0 can't be"),
    "names that are none": (name(parameters=None), "no object"),
    "names that are a list": (name(parameters=[["odd", [9, 7]]]), "no object"),
    "a name in two lines": (name(parameters={"a\nb": [9, 7]}), "is no name of a parameter"),
    "an escape": (name(kinds=["fp32", "\x1b[2J"]), "doesn't look like"),
    "more names": (name(more=1), "isn't known"),
    "an absurd shape": (name(parameters={"odd": [2**40, 2**40]}), "larger than all files"),
    "a negative shape": (name(parameters={"odd": [-9, -7]}), "is not within"),
    "many dimensions": (name(parameters={"odd": [1] * 10_000}), "dimensions"),
    "another shape": (name(parameters={"odd": [9, 8]}), "odd (fp32): elements from 63 of it are missing"),
    "a smaller shape": (name(parameters={"odd": [9, 6]}), "odd (fp32): elements from 63 of it are missing"),
    "no parameter": (name(parameters={}), "holds no parameter"),
    "one that isn't held": (name(parameters={"odd": [9, 7], "even": [2]}), "even: all of it is missing"),
    "a slice outside": (name(slices=[{"dim": 0, "start": 3, "stop": 12}]), "isn't inside shape"),
    "a slice of no dimension": (name(slices=[{"dim": 5, "start": 0, "stop": 1}]), "isn't inside shape"),
    "an empty slice": (name(slices=[{"dim": 0, "start": 3, "stop": 3}]), "isn't inside shape"),
    "half a slice": (name(slices=[{"dim": 0}]), "is missing"),
    "a parameter of no name": (put("parameter", [0, 1]), "parameter[1]: 1 can't be"),
    "a kind below zero": (put("kind", [-1, 0]), "kind[0]: -1 can't be"),
    "rows out of order": (put("kind", [1, 0]), "aren't sorted"),
    "rows twice": (doubled, "are twice"),
    "a part of no rank": (put("part", [1, 0]), "part[0]: 1 can't be"),
    "steps beyond the ranks": (
        lambda columns, names: (put("count", [3, 1])(columns, names), put("size", [21, 63])(columns, names)),
        "step[0]: 0 can't be",
    ),
    "no pieces": (put("count", [0, 1]), "count[0]: 0 can't be"),
    "more pieces than there can be": (put("count", [2**31 - 1, 1]), "step[0]: 0 can't be"),
    "no elements": (put("size", [0, 63]), "size[0]: 0 can't be"),
    "too many elements": (put("size", [2**62, 63]), "size[0]"),
    "elements below zero": (put("start", [-1, 0]), "start[0]: -1 can't be"),
    "a beginning that is missing": (put("start", [1, 0]), "elements 0 to 1 of it are missing"),
    "an end that is missing": (put("size", [62, 63]), "odd (fp32): elements from 62 of it are missing"),
    "an end beyond": (put("size", [64, 63]), "odd (fp32)"),
    "some left out, as many twice": (some_left_out_and_as_many_twice, "odd (fp32): elements 15 to 20 of it are twice"),
    "before the file": (put("offset", [-1, 63]), "offset[0]: -1 can't be"),
    "behind the file": (put("offset", [2048, 63]), "offset[0]: 2048 can't be"),
    "behind the tensor": (
        lambda columns, names: (
            name(parameters={"odd": [20, 40]})(columns, names),
            put("size", [800, 800])(columns, names),
            put("offset", [800, 0])(columns, names),
        ),
        "has no 1,600 elements",
    ),
    "a gap in the tensor": (put("offset", [1000, 0]), "part 0: elements 63 to 1,000 belong to no piece"),
    "a gap before all": (put("offset", [64, 1]), "part 0: elements 0 to 1 belong to no piece"),
    "one piece over another": (put("offset", [0, 62]), "part 0: elements 62 to 63 belong to two pieces"),
    "two pieces in one place": (put("offset", [0, 0]), "part 0: elements 0 to 63 belong to two pieces"),
    "other lengths": (put("start", [0, 0, 0]), "start is int64 [3]"),
    "no rows": (
        lambda columns, names: columns.update({key: columns[key][:0] for key in set(columns) - {"file"}}),
        "odd: all of it is missing",
    ),
    "a column that is missing": (lambda columns, names: columns.pop("step"), "step"),
    "other numbers": (lambda columns, names: columns.update(size=columns["size"].astype(float)), "size is float64"),
    "a matrix": (lambda columns, names: columns.update(part=columns["part"].reshape(1, 2)), "part is int32 [1, 2]"),
    "slices that overlap": (cut_in_two, "its slices don't make it whole"),
    "slices of two dimensions": (
        lambda columns, names: cut_in_two(columns, names, 9, 0, 1),
        "odd (fp32): its slices don't make it whole",
    ),
}


@pytest.mark.parametrize("case", BROKEN_INDEXES)
def test_an_index_that_cant_be_is_refused(folder, case):
    change, expected = BROKEN_INDEXES[case]
    columns = load_file(folder / INDEX)
    names = json.loads(columns.pop("names").tobytes())
    change(columns, names)
    save_file(columns | {"names": np.frombuffer(json.dumps(names).encode(), np.uint8)}, folder / INDEX)
    sign(folder)
    line = error_line(look, folder)
    assert expected in line
    assert str(folder) in line
    assert main(["verify", str(folder)]) == 2


@pytest.mark.parametrize("names", [b"", b"[]", b"\xff", b"[" * 10**5, b'{"kinds": [], "kinds": []}'])
def test_names_that_are_no_object_are_refused(folder, names):
    columns = load_file(folder / INDEX)
    save_file(columns | {"names": np.frombuffer(names, np.uint8)}, folder / INDEX)
    sign(folder)
    assert f"{folder / INDEX}: " in error_line(look, folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_an_index_that_is_no_table_is_refused(folder, content):
    (folder / INDEX).write_bytes(content)
    sign(folder)
    assert f"{folder / INDEX}: " in error_line(look, folder)
    assert main(["verify", str(folder)]) == 2


@pytest.mark.parametrize("damage", ["absurd header", "cut", "empty", "other numbers", "a matrix", "another name"])
def test_safetensors_that_cant_be_are_refused(folder, damage):
    path = folder / "rank-00000.safetensors"
    content = path.read_bytes()
    if damage == "absurd header":
        path.write_bytes(b"\xff" * 8 + content[8:])
    elif damage in ("cut", "empty"):
        path.write_bytes(content[:30] if damage == "cut" else b"")
    else:
        shape = (1024, 1) if damage == "a matrix" else 1024
        tensor = np.zeros(shape, dtype=np.int32 if damage == "other numbers" else np.float32)
        save_file({"rank-00001" if damage == "another name" else "rank-00000": tensor}, path)
    sign(folder)
    assert str(folder) in error_line(look, folder)
    assert main(["verify", str(folder)]) == 2


def test_hashes_of_parts_are_those_of_their_places(tmp_path):
    folder = write_as_ranks(tmp_path / "run", 3, [[piece] for piece in pieces(20, 40)], writers=1, **STATE)
    look(folder)
    parts = json.loads((folder / "COMPLETE").read_text())["files"]["rank-00000.safetensors"]["parts"]
    assert [part["bytes"] for part in parts] == [8192, 4096, 4096]
    path = folder / "rank-00000.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:8192] + content[12288:] + content[8192:12288])
    assert "rank-00000.safetensors doesn't match its hash" in error_line(look, folder)
    assert find_problem(folder, part=0, parts=5) is None  # rank 0 looks at its own, which is as it was
    assert find_problem(folder, part=1, parts=5) is not None


# ----------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("step", [99_999_999, 100_000_000, 10**12])
def test_steps_of_any_number_of_digits_are_found_in_order(tmp_path, step):
    for each in (step - 1, step, step + 1):
        write_checkpoint(tmp_path, each)
    assert list_steps(tmp_path) == [step - 1, step, step + 1]
    store = ObjectStore(f"file://{tmp_path / 'store'}")
    open_writer(tmp_path, store=store, keep=2).save(pieces(), {"step": step + 2}, last=True)
    assert list_steps(tmp_path) == [step + 1, step + 2]
    store.upload_if_missing(folder_of(tmp_path, step + 1), Alone())
    assert store.steps() == [step + 2]
    for name in ("step-00000001", f"step-{step:08d}"):
        assert folder_of(tmp_path, step_of(name) or 0).name == name
    assert store.fetch_newest(tmp_path / "other", Alone(), lambda folder: None)[0].endswith(f"step-{step + 2:08d}")
    assert torch.equal(dict(read_weights(folder_of(tmp_path / "other", step + 2)))["odd"].view(-1), WEIGHT)


@pytest.mark.parametrize("name", ["step-1", "step-000000001", "step-0000000١", "step-00000001 ", "step-" + "9" * 40])
def test_other_names_are_no_steps(tmp_path, name):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000007").write_text("a file")
    assert step_of(name) is None
    assert list_steps(tmp_path) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_an_index_that_is_no_file_isn_t_waited_for(folder, make):
    (folder / INDEX).unlink()
    make(folder / INDEX)
    with pytest.raises(InputError, match="not a regular file"):
        CheckpointReader(folder)


def test_an_index_of_more_parts_than_any_run_has_ranks_is_refused_before_they_are_listed(folder):
    columns = load_file(folder / INDEX)
    save_file(columns | {"file": np.zeros(4_000_000, np.int32)}, folder / INDEX)
    sign(folder)
    assert "4,000,000 parts are more than" in error_line(look, folder)
