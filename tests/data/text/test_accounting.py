"""Kept and rejected are what an independent reader finds: over tars, JSON lines and folders of any making."""

import gzip
import io
import json
import os
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.text.documents import read_documents
from trainer.data.text.readers.webdataset import BESIDE
from trainer.data.text.reading import Account, Reading
from trainer.data.text.records import Rejected
from trainer.data.text.sources import Input, find_sources
from trainer.data.tokens.tars import key_and_ending
from trainer.errors import InputError

webdataset = pytest.importorskip("webdataset.tariterators")

few = settings(max_examples=100, deadline=None, database=None)


def account(path):
    """Texts, rejected records by reason, and what was left out within and beside the files at `path`; or a refusal."""
    texts, rejected, unused = [], Counter(), Counter()
    try:
        found = find_sources([Input(str(path), reading=Reading(most_bytes=2**20))], [], [], Path("/nowhere"))
        for source in found.sources:
            for _, document in read_documents(source, Account(unused=unused)):
                if isinstance(document, Rejected):
                    rejected[document.reason] += 1
                else:
                    texts.append(document)
    except InputError as error:
        return str(error)
    return texts, rejected, unused[BESIDE], found


# ---- tars

stems = st.sampled_from(
    ["a", "b", "2301.1", "2301.2", "d/a", "d.e/a", "d/.h", ".h", "__m__", "__m__/a", "ü", "-", "x y"]
)
endings = st.sampled_from([".txt", ".txt", ".TXT", ".text", ".json", ".en.txt", ".cls", "", ".", ".tar.txt"])
members = st.lists(
    st.tuples(st.builds(str.__add__, stems, endings), st.sampled_from(["file"] * 6 + ["symlink", "link", "folder"])),
    max_size=10,
)


def write_tar(path, entries):
    kinds = {"file": tarfile.REGTYPE, "symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE, "folder": tarfile.DIRTYPE}
    with tarfile.open(path, "w") as archive:
        for number, (name, kind) in enumerate(entries):
            info = tarfile.TarInfo(name)
            content = f"text {number}".encode() if kind == "file" else b""
            info.type, info.size, info.linkname = kinds[kind], len(content), "a.txt" if "link" in kind else ""
            archive.addfile(info, io.BytesIO(content))
    return path


def by_webdataset(path):
    """The samples that the library finds, or its refusal."""
    with open(path, "rb") as stream:
        files = webdataset.tar_file_expander([{"url": "", "stream": stream}])
        try:
            return [
                {name: value for name, value in sample.items() if not name.startswith("__")}
                for sample in webdataset.group_by_keys(files)
            ]
        except ValueError as error:
            return error


def is_ambiguous(sample):
    return "text" not in sample and "txt" in sample and any(name.endswith((".txt", ".text")) for name in sample)


def has_text(sample):
    return any(f".{name}".endswith((".txt", ".text")) for name in sample)


@given(members)
@few
def test_every_member_of_a_tar_is_a_document_or_counted_and_samples_are_those_of_webdataset(entries):
    with tempfile.TemporaryDirectory() as folder:
        path = write_tar(Path(folder) / "x.tar", entries)
        samples = by_webdataset(path)
        accounted = account(path)
    if isinstance(accounted, str):
        assert "\n" not in accounted
        assert isinstance(samples, ValueError) or any(map(is_ambiguous, samples)) or not any(map(has_text, samples))
        return
    texts, rejected, beside, _ = accounted
    assert not isinstance(samples, ValueError)
    assert len(texts) + rejected.total() + beside == sum(kind != "folder" for _, kind in entries)
    assert rejected["link"] == sum("link" in kind for _, kind in entries)
    for sample in samples:
        exact = sample.get("text") or sample.get("txt")
        wanted = [exact] if exact else [text for name, text in sample.items() if name.endswith((".txt", ".text"))]
        assert all(text in texts for text in wanted)
        assert not any(text in texts for text in sample.values() if text not in wanted)


@given(st.text(st.sampled_from("ab./_\n"), max_size=8))
@settings(few, max_examples=500)
def test_names_are_taken_apart_as_webdataset_does(name):
    key, ending = webdataset.base_plus_ext(name)
    assert key_and_ending(name) == (None if key is None else (key, ending))


# ---- JSON lines

GOOD = st.integers(0, 99).map(lambda number: json.dumps({"text": f"text {number}", "n": number}).encode())
BAD = st.sampled_from(
    [
        *(b"{", b"[1]", b'"text"', b'{"text": 1}', b"{}", b"{}{}", b"[" * 10_000, b"\0"),
        *(b'{"text": ""}', b'{"text": " \\n"}', b'{"text": "a\\u0000"}', b'{"text": "\\ud800"}'),
        *(b'{"text": "\xff"}', '{"text": "中"}'.encode("gb18030")),
    ]
)
BLANK = st.sampled_from([b"", b" ", b"\t\r"])
NAMES = st.sampled_from(["x.jsonl", "x.ndjson", "x.JSONL", "x.jsonl.gz", "x.json", "x.txt", "x.log", "x", "x.json.gz"])


@given(
    GOOD,
    st.lists(st.one_of(GOOD, GOOD, BAD, BLANK), max_size=12),
    st.sampled_from([b"\n", b"\r\n"]),
    NAMES,
    st.booleans(),
)
@few
def test_every_line_of_json_is_a_document_or_counted(first, others, feed, name, marked):
    lines = (
        [first, first, *others] if "jsonl" in name.lower() or "nd" in name else [first, *others, *[first] * len(others)]
    )
    content = (b"\xef\xbb\xbf" if marked else b"") + feed.join(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        texts, rejected, _, _ = account(path)
    found = [line for line in content.split(b"\n") if line.strip()]
    assert len(texts) + rejected.total() == len(found)
    assert texts == [text for line in lines if (text := independent_text(line))]


def independent_text(line):
    try:
        text = json.loads(line.decode())["text"].encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return text if text.strip() and b"\0" not in text else None


# ---- folders

FILE_NAMES = st.sampled_from(["a.txt", "b.md", "c.py", "d.png", "e.psv", "f", "g.html", ".h.txt", "i.TXT", "j.txt.gz"])
CONTENTS = st.sampled_from([b"text", b"", b" \n", b"\xff\xfe", b"a\0b", "Grüße".encode("latin-1"), b"<html>x</html>"])
KINDS = st.sampled_from(["file", "file", "file", "link in", "link out", "dangling", "pipe"])
FOLDERS = st.sampled_from(["", "x", "x/y.z", ".hidden"])


@given(st.dictionaries(st.tuples(FOLDERS, FILE_NAMES), st.tuples(CONTENTS, KINDS), max_size=12))
@settings(few, max_examples=50)
def test_every_file_of_a_folder_is_a_document_or_counted(files):
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_folder(Path(temporary), files)
        accounted = account(folder)
        if isinstance(accounted, str):
            assert "no file there" in accounted
            return
        texts, rejected, _, found = accounted
        taken = {os.path.realpath(source.address) for source in found.sources}
        entries, again = look(folder, taken)
    assert b"a secret" not in texts
    assert len(texts) + rejected.total() == len(found.sources) == len(taken)
    assert len(found.sources) + found.left_out + found.others.others.total() == entries - again


def write_folder(temporary, files):
    folder = temporary / "in"
    (folder / "real").mkdir(parents=True)
    (temporary / "secret.txt").write_text("a secret")
    for number, ((parent, name), (content, kind)) in enumerate(files.items()):
        path, real = folder / parent / name, folder / "real" / f"{number}{name.lstrip('.')}"
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(content) if name.endswith(".gz") else content
        if kind == "file":
            path.write_bytes(packed)
        elif kind == "link in":
            real.write_bytes(packed)
            path.symlink_to(real)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(temporary / "secret.txt" if kind == "link out" else "nowhere")
    return folder


def look(folder, taken):
    """How many files and hidden folders there are, and how many are links to files that are taken anyway."""
    entries = again = 0
    for parent, below, names in os.walk(folder):
        entries += sum(name.startswith(".") for name in below) + len(names)
        below[:] = [name for name in below if not name.startswith(".")]
        links = (os.path.join(parent, name) for name in names if not name.startswith("."))
        again += sum(os.path.islink(link) and os.path.realpath(link) in taken for link in links)
    return entries, again
