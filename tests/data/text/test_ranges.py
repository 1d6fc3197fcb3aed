"""Ranges of a file give the records of the whole, each once, wherever they are cut."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.prepared import configure, write_jsonl
from trainer.data.text import collect
from trainer.data.text.documents import Rejected, read_documents
from trainer.data.text.ranges import RangeReader, SourceRange, source_ranges
from trainer.data.text.sources import find_sources
from trainer.errors import InputError
from trainer.verbs.prepare import main

LINES = [
    b'{"text": "one"}',
    b"",
    b"no json",
    b'{"text": ""}',
    b'\xef\xbb\xbf{"text": "two"}',
    b"\r",
    b'{"text": "three"}',
]


def source_of(path):
    (source,) = find_sources([str(path)], [], [], path.parent / "out").sources
    return source


def records(reader):
    """What a reader gives, with rejections in full."""
    return [
        (number, (document.reason, document.detail) if isinstance(document, Rejected) else document)
        for number, document in reader
    ]


def read_in(source, edges):
    """All records of ranges with these edges, numbered through."""
    found, before = [], 0
    for start, stop in itertools.pairwise([0, *edges, None]):
        reader = RangeReader(SourceRange(0, source, start, stop), "text", 1000, Counter())
        found += [(before + number, document) for number, document in records(reader)]
        before += reader.records
    return found


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_records_are_those_of_the_whole_file_wherever_it_is_cut(tmp_path, end):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(LINES) + end)
    source = source_of(path)
    whole = records(read_documents(source, "text", 1000))
    assert len(whole) == 5
    size = source.bytes
    assert all(read_in(source, [cut]) == whole for cut in range(1, size))
    assert all(read_in(source, list(range(step, size, step))) == whole for step in range(1, size))


def test_a_line_longer_than_many_ranges_is_read_once(tmp_path):
    texts = ["short", "long " * 500, "short again"]
    source = source_of(write_jsonl(tmp_path / "a.jsonl", texts))
    assert [document for _, document in read_in(source, range(10, source.bytes, 10))] == [
        texts[0].encode(),
        ("too_large", "2,500 bytes or more, data.most_document_bytes=1000"),
        texts[2].encode(),
    ]


def test_only_plain_lines_are_cut(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["text"] * 100)
    ranges = source_ranges(3, source_of(path), 500, "text")
    assert len(ranges) == source_of(path).bytes // 500
    assert [span.start for span in ranges[1:]] == [span.stop for span in ranges[:-1]]
    assert (ranges[0].start, ranges[-1].stop, sum(span.bytes for span in ranges)) == (0, None, source_of(path).bytes)
    lines = path.read_bytes()
    for name, content in (
        ("b.json", lines),
        ("c.txt", lines),
        ("d.txt", b"text\n" * 1000),
        ("e.jsonl", b"\x1f\x8b" * 999),
    ):
        (tmp_path / name).write_bytes(content)
        source = source_of(tmp_path / name)
        assert (len(source_ranges(0, source, 500, "text")) > 1) == (name in ("b.json", "c.txt"))
    assert len(source_ranges(0, replace(source_of(path), packing=".gz"), 500, "text")) == 1


def test_places_of_rejected_and_duplicate_records_count_from_the_files_begin(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", 100)
    lines = [json.dumps({"text": f"{number} of many texts"}) for number in range(60)]
    lines[40], lines[50], lines[55] = "no json", lines[3], "[]"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert main(configure(tmp_path / "a.jsonl", tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "bad_json: first a.jsonl, line 41: is not JSON" in said
    assert "duplicate: first a.jsonl, record 50" in said
    assert "2 bad_json, 1 duplicate, of 60 documents read" in said


def test_a_file_without_any_text_is_refused_as_if_it_were_read_in_one(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", ["text"] * 100, field="content")
    messages = []
    for size in (100, 10**6):
        monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", size)
        with pytest.raises(InputError, match="no record has a text") as error:
            main(configure(path, tmp_path / "out"))
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert list((tmp_path / "out").iterdir()) == []
