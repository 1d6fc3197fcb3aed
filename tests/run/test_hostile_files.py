"""The small files of run directories and of prepare's unfinished work, written by an enemy: a line for each."""

import json
import os
import re
import shutil

import numpy as np
import pytest

from tests.corpus import write_texts
from tests.prepared import configure, prepare, shard_files, write_jsonl
from trainer.config import Wandb
from trainer.data.text import document_store
from trainer.data.text.parts import rows_path
from trainer.data.text.plan import PreparationPlan, read_progress, write_plan
from trainer.data.tokens.order import PERIOD
from trainer.errors import BanyanError, ConfigError, InputError, StorageError
from trainer.machine.durable import write_text
from trainer.run.directory import load_run_tokenizer
from trainer.run.micro_batch import recorded
from trainer.run.provenance import read_history
from trainer.run.rank_log import log_to_file
from trainer.run.wandb_overrides import wandb_settings
from trainer.track.sinks.journal import Journal
from trainer.track.sinks.wandb_run import WandbSettings, journal_rows
from trainer.verbs.prepare import main
from trainer.verbs.sync import read_facts, read_plain_config

NO_JSON = [b"", b"{", b"null", b"[]", b"3", b"\xff", b"[" * 10**5, b'{"a": 1, "a": 1}', b"9" * 5000]


def error_line(act, *arguments, kind=BanyanError):
    """The one line that `act` refuses with."""
    with pytest.raises(kind) as error:
        act(*arguments)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 700
    return str(error.value)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


# ------------------------------------------------------------------------------------------------- run directories

SEGMENT = {"first": 0, "shares": {"train": {"fingerprint": "f", "weight": PERIOD, "start": 0}}}
STRETCH = {"step": 0, "position": 0, "batch_size": 4}


@pytest.mark.parametrize(
    "content",
    [
        *NO_JSON,
        {"segments": [SEGMENT]},
        {"segments": [SEGMENT], "stretches": [STRETCH, STRETCH]},
        {"segments": [SEGMENT], "stretches": [{**STRETCH, "batch_size": -4}]},
        {"segments": [{**SEGMENT, "first": 5}], "stretches": [STRETCH]},
        {"segments": [SEGMENT, SEGMENT], "stretches": [STRETCH]},
        {"segments": [], "stretches": [STRETCH]},
    ],
)
def test_a_history_that_cant_be_is_refused(tmp_path, content):
    put(tmp_path / "history.json", content)
    assert "history.json: " in error_line(read_history, tmp_path, kind=InputError)


@pytest.mark.parametrize(
    "content", [*NO_JSON, {"micro_batch_size": "2", "circumstances": {}}, {"micro_batch_size": 0, "circumstances": {}}]
)
def test_a_kept_micro_batch_that_cant_be_is_refused(tmp_path, content):
    assert recorded(tmp_path, {}, 8) is None
    put(tmp_path / "micro_batch.json", content)
    assert "micro_batch.json: " in error_line(recorded, tmp_path, {}, 8, kind=InputError)


def test_a_kept_micro_batch_must_divide_the_share(tmp_path):
    put(tmp_path / "micro_batch.json", {"micro_batch_size": 3, "circumstances": {}, "measured": []})
    assert recorded(tmp_path, {}, 9) == 3
    assert recorded(tmp_path, {"world_size": 2}, 8) is None
    assert "doesn't divide" in error_line(recorded, tmp_path, {}, 8, kind=InputError)


@pytest.mark.parametrize(
    "row",
    [
        *NO_JSON[1:],
        {"tokens": 3},
        {"step": True},
        {"step": -1},
        {"step": 2**70},
        {"step": 1, "time": "now"},
        {"step": 1, "tokens": None},
        {"step": 1, "train/loss": "3.5"},
        {"step": 1, "train/loss": [3.5]},
        {"step": 1, "text": "a"},
        {"step": 1, "text": 3, "name": "sample"},
        {"step": 1, "text": "a", "name": ["sample"]},
    ],
)
def test_a_row_that_cant_be_is_refused_by_its_line(tmp_path, row):
    for name in ("metrics.jsonl", "samples.jsonl"):
        line = row if isinstance(row, bytes) else json.dumps(row).encode()
        put(tmp_path / name, b'{"step": 1, "time": 1.5, "train/loss": null}\n' + line + b'\n{"step": 2}\n')
        assert f"{name}, line 2" in error_line(journal_rows, tmp_path, kind=InputError)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_no_file_of_a_run_directory_is_waited_for(tmp_path, kind):
    readers = {
        "metrics.jsonl": journal_rows,
        "samples.jsonl": journal_rows,
        "facts.json": read_facts,
        "history.json": read_history,
        "micro_batch.json": lambda run_dir: recorded(run_dir, {}, 8),
        "config.yaml": read_plain_config,
        "tokenizer/tokenizer_config.json": load_run_tokenizer,
        "wandb_id": lambda run_dir: WandbSettings(run_dir, "x", Wandb(), {}).run_id,
    }
    (tmp_path / "tokenizer").mkdir()
    for name, read in readers.items():
        path = tmp_path / name
        {"folder": path.mkdir, "fifo": lambda p=path: os.mkfifo(p), "device": lambda p=path: p.symlink_to("/dev/zero")}[
            kind
        ]()
        message = error_line(read, tmp_path, kind=InputError)
        assert name.split("/")[0] in message, name
        path.rmdir() if kind == "folder" else path.unlink()


@pytest.mark.parametrize("content", [*NO_JSON, {"eos_token": None}, {"eos_token": ["a"]}, {}])
def test_a_tokenizer_config_that_names_no_end_is_refused(tmp_path, content):
    put(tmp_path / "tokenizer" / "tokenizer_config.json", content)
    assert "eos_token" in error_line(load_run_tokenizer, tmp_path, kind=InputError)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"- 1\n",
        b"run: [1]\n",
        b"run: {name: [x]}\n",
        b"track: text\n",
        b"track: {wandb: [1]}\n",
        b"a: &a [*a]\n",
        b"".join(b"x%d: &x%d [%s]\n" % (n, n, b", ".join([b"*x%d" % (n - 1)] * 9) if n else b"1") for n in range(12)),
        b"[" * 5000,
        b"a: " + b"{a: " * 3000,
    ],
)
def test_a_configuration_that_cant_be_is_refused_by_sync(tmp_path, content):
    put(tmp_path / "config.yaml", content)
    assert "config.yaml" in error_line(read_plain_config, tmp_path, kind=InputError)


def test_sync_resolves_nothing_that_is_stored(monkeypatch):
    monkeypatch.setenv("SECRET", "precious")
    stored = {"track": {"wandb": {"project": "${oc.env:SECRET}", "tags": ["${oc.env:SECRET}"], "mode": "online"}}}
    assert "nothing is interpolated" in error_line(wandb_settings, stored, [], "sync", kind=ConfigError)
    given = ["track.wandb.project=mine", "track.wandb.tags=[a]"]
    assert wandb_settings(stored, given, "sync") == Wandb(project="mine", tags=["a"])
    assert "project" in error_line(wandb_settings, {"track": {"wandb": {"project": 3}}}, [], "sync", kind=ConfigError)


def test_nothing_is_appended_through_a_link(tmp_path):
    (tmp_path / "run" / "logs").mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for path in (tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "logs" / "rank-00000.log"):
        path.symlink_to(victim)
    assert "metrics.jsonl: it is a link" in error_line(Journal, tmp_path / "run" / "metrics.jsonl")
    assert "rank-00000.log: it is a link" in error_line(log_to_file, tmp_path / "run", 0)
    write_text(tmp_path / "run" / "metrics.jsonl", "ours")
    assert victim.read_text() == "precious"


def test_what_stands_in_a_file_s_way_is_named(tmp_path):
    (tmp_path / "config.yaml").mkdir()
    assert "config.yaml: a folder is in its place" in error_line(
        write_text, tmp_path / "config.yaml", "x", kind=StorageError
    )
    (tmp_path / "file").write_text("")
    assert "file/x: a file is where" in error_line(write_text, tmp_path / "file" / "x", "x", kind=StorageError)
    assert "longer than" in error_line(write_text, tmp_path / ("n" * 300), "x", kind=StorageError)


# --------------------------------------------------------------------------------------------- prepare's own files


@pytest.mark.parametrize(
    "content",
    [
        *NO_JSON,
        {"finished": 1, "settings": {}, "inputs": []},
        {"finished": True, "settings": [], "inputs": []},
        {"finished": True, "settings": {}, "inputs": {}},
        {"finished": True, "settings": {}, "inputs": [[]]},
        {"finished": True, "settings": {}, "inputs": [[["x"], "y", 1, 2]]},
        {"finished": True, "settings": {}, "inputs": ["abcd"]},
        {"finished": True, "settings": {"seed": {"\x1b": "\n"}}, "inputs": []},
    ],
)
def test_a_plan_that_cant_be_is_refused(tmp_path, content):
    put(tmp_path / "plan.json", content)
    plan = PreparationPlan({"seed": 0}, [["in", "a.txt", 1, 2]])
    assert str(tmp_path) in error_line(read_progress, tmp_path, plan, kind=ConfigError)
    write_text(tmp_path / "plan.json", "")
    (tmp_path / "partial").mkdir()
    write_plan(tmp_path, plan, finished=False)
    assert read_progress(tmp_path, plan) == "begun"
    gone = read_progress, tmp_path, PreparationPlan({"seed": 0}, [])
    assert "'a.txt' of data.input='in' is gone" in error_line(*gone, kind=ConfigError)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("texts") / "texts.jsonl", write_texts(30))


@pytest.fixture
def stopped(texts, tmp_path, monkeypatch):
    """Gives an output whose prepare ended as a stage began, and what it would have become."""

    def prepare_until(stage):
        whole = shard_files(prepare(texts, tmp_path / "whole"))
        with monkeypatch.context() as patch:
            patch.setattr(f"trainer.verbs.prepare.{stage}", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                main(configure(texts, tmp_path / "out"))
        return tmp_path / "out", whole

    return prepare_until


@pytest.fixture
def begun(stopped):
    """An output whose prepare was killed once all shards were written; and what it would have become."""
    return stopped("Finish")


def garble(place, byte=0x7F):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[place] ^= byte
        path.write_bytes(content)

    return damage


def change_row(column, value, row=3):
    def damage(path):
        content = bytearray(path.read_bytes())
        rows = np.frombuffer(content, document_store.ROW, count=len(content) // document_store.ROW.itemsize)
        rows[column][row] = value
        path.write_bytes(content)

    return damage


ROWS = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-30]),
    lambda path: path.write_bytes(path.read_bytes() * 2),
    lambda path: (path.unlink(), path.mkdir()),
    change_row("length", -1),
    change_row("length", 2**62),
    change_row("length", 10**9),
    change_row("source", -1),
    change_row("record", -(2**63)),
    change_row("offset", 2**60),
    change_row("place", 7),
]


@pytest.mark.parametrize("damage", [*ROWS, change_row("offset", 1), change_row("high", 1)])
def test_rows_of_a_part_that_cant_be_are_refused_and_the_mend_mends(stopped, texts, damage):
    output, whole = stopped("ChooseEncoder")
    damage(rows_path(output / "partial", 0, "train"))
    line = error_line(main, configure(texts, output), kind=InputError)
    assert re.search(r"part-000000(-train.rows|.text): can't be read \(.*; remove .*/partial, and start the same", line)
    shutil.rmtree(output / "partial")
    prepare(texts, output)
    assert shard_files(output) == whole


STORED = [*ROWS, garble(-1), garble(-9), garble(-20), garble(-60), garble(-400), garble(0), garble(100)]


@pytest.mark.parametrize("damage", STORED)
def test_stored_documents_that_cant_be_are_refused_and_the_mend_mends(stopped, texts, damage):
    output, whole = stopped("ShuffleBucket")
    damage(output / "partial" / "read-000000-00.documents")
    line = error_line(main, configure(texts, output), kind=InputError)
    assert re.search(r"read-000000-00.documents: can't be read \(.*; remove .*/partial, and start the same", line)
    shutil.rmtree(output / "partial")
    prepare(texts, output)
    assert shard_files(output) == whole


NOTES = {"read-000000": "ShuffleBucket", "part-000000": "ChooseEncoder", "encoder": "MakeShard"}


@pytest.mark.parametrize("content", [*NO_JSON, {"documents": -1}, {"splits": {"train": {"documents": 1}}}])
@pytest.mark.parametrize("name", NOTES)
def test_a_note_of_a_stage_that_cant_be_is_refused(stopped, texts, name, content):
    output, _ = stopped(NOTES[name])
    put(output / "partial" / f"{name}.json", content)
    assert f"{name}.json: can't be read" in error_line(main, configure(texts, output), kind=InputError)


@pytest.mark.parametrize("content", [*NO_JSON, {"file": "../x"}, {"file": "shard-000000.tar", "bytes": -1}])
def test_a_note_that_cant_be_is_refused(begun, texts, content):
    output, _ = begun
    put(output / "partial" / "train-shard-000000.json", content)
    assert "train-shard-000000.json: can't be read" in error_line(main, configure(texts, output), kind=InputError)


@pytest.mark.parametrize("layout", [None, b"", {"version": 0}])
def test_what_another_version_of_prepare_left_is_begun_anew(begun, texts, layout):
    output, whole = begun
    for path in (output / "partial").iterdir():
        if path.is_file():
            path.unlink()
    (output / "partial" / "item-000000.npz").write_bytes(b"PK")
    if layout is not None:
        put(output / "partial" / "layout.json", layout)
    prepare(texts, output)
    assert shard_files(output) == whole
