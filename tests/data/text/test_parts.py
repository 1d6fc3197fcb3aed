"""A file in parts: however it is cut, they hold its records in their order, each once."""

import bz2
import gzip
import itertools
import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus import write_texts
from tests.data.text.formats import arrow, crawl, jsonl, page, parquet, record, separated, table, wet, wikipedia
from tests.data.text.reading import find
from tests.prepared import configure, prepare, shard_files, write_jsonl
from trainer.data.text import collect
from trainer.data.text.collect import work_items
from trainer.data.text.cuts import find_cuts
from trainer.data.text.document_store import DocumentStore
from trainer.data.text.documents import parts_of, read_documents
from trainer.data.text.filters import TOO_LARGE
from trainer.data.text.readers import line_parts, wiki_parts
from trainer.data.text.reading import WHOLE, Account, Part
from trainer.data.text.records import Rejected
from trainer.data.text.split import Buckets
from trainer.data.text.workers import in_process
from trainer.errors import InputError
from trainer.verbs.prepare import main

few = settings(max_examples=60, deadline=None, database=None)


def records(source, part=WHOLE):
    """The records of a part with their numbers, and how many numbers it took."""
    account = Account()
    return list(read_documents(source, account, part)), account.records


def joined(source, parts):
    """The records of all parts, numbered through."""
    found, first = [], 0
    for part in parts:
        part_records, taken = records(source, part)
        found += [(first + number, str(document), document) for number, document in part_records]
        first += taken
    return [(number, document) for number, _, document in found]


def assert_same(source, parts):
    assert joined(source, parts) == records(source)[0]


def edges_to_parts(edges):
    edges = [0, *sorted(edges), None]
    return [Part(start, stop) for start, stop in itertools.pairwise(edges)]


def write(folder, name, content, **reading):
    path = Path(folder) / name
    path.write_bytes(content)
    (source,) = find(path, **reading).sources
    return source


# ---- at any byte

TEXT = st.text(st.sampled_from("ab\n é中"), max_size=6)
MARKS = st.sampled_from(["\n\n", "\n", "aba", "aa", "<|end|>", "中", "ab\n"])


@given(st.lists(TEXT, max_size=12), MARKS, st.lists(st.integers(0, 90), max_size=5), st.booleans())
@settings(few, max_examples=300)
def test_text_with_separators_may_be_cut_at_any_byte(texts, mark, edges, ends):
    content = (mark.join(texts) + mark * ends).encode()
    with tempfile.TemporaryDirectory() as folder:
        source = write(folder, "a.txt", content, separator=mark.encode(), format="text")
        documents = [document for _, document in records(source)[0] if isinstance(document, bytes)]
        assert documents == [piece for piece in content.split(mark.encode()) if piece.strip()]
        # reading is split on bytes, and the line reader's pieces are of another size than the file's
        whole = [(number, document) for number, document in records(source)[0]]
        parts = edges_to_parts([edge for edge in edges if edge <= len(content)])
        if len(parts) > 1:
            assert joined(source, parts) == whole


@pytest.mark.parametrize("step", [1, 3, 2**16])
def test_marks_that_overlap_are_found_from_the_left_from_any_byte(step, tmp_path, monkeypatch):
    monkeypatch.setattr(line_parts, "STEP", step)
    monkeypatch.setattr(line_parts, "PIECE", 7)
    draw = random.Random(1)
    content = "".join("\n" * draw.choice([1, 1, 2, 3, 5, 40]) + draw.choice("xyz") for _ in range(60)).encode()
    source = write(tmp_path, "a.txt", content, separator=b"\n\n", format="text")
    for edge in range(len(content) + 1):
        assert_same(source, edges_to_parts([edge]))


LINES = st.sampled_from([b'{"text": "a"}', b'{"text": "\xc3\xa9\\n"}', b"", b" ", b"{", b'{"x": 1}', b"\xff", b"\r"])


@given(st.lists(LINES, max_size=20), st.lists(st.integers(0, 200), max_size=5))
@few
def test_json_lines_may_be_cut_at_any_byte(lines, edges):
    content = b"\n".join([b'{"text": "first"}', *lines])
    with tempfile.TemporaryDirectory() as folder:
        source = write(folder, "a.jsonl", content)
        assert_same(source, edges_to_parts([edge for edge in edges if edge <= len(content)]))


@given(st.lists(st.text(st.sampled_from("ab<>&é中\n"), max_size=9), min_size=1, max_size=8), st.data())
@few
def test_a_dump_may_be_cut_at_any_byte(texts, data):
    content = wikipedia([f"x{text}" for text in texts])
    with tempfile.TemporaryDirectory() as folder:
        source = write(folder, "a.xml", content)
        edges = data.draw(st.lists(st.integers(1, len(content) - 1), max_size=5))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wiki_parts, "PIECE", data.draw(st.sampled_from([1, 7, 100, 2**20])))
            assert_same(source, edges_to_parts(edges))


@pytest.mark.parametrize("size", [1, 2, 5, 40, 1000])
def test_a_packed_dump_may_be_cut_between_streams_wherever_those_end(size, tmp_path, monkeypatch):
    content = wikipedia([f"text {number}" for number in range(5)])
    streams = [bz2.compress(content[start : start + size]) for start in range(0, len(content), size)]
    source = write(tmp_path, "a.xml.bz2", b"".join(streams))
    starts = list(itertools.accumulate(map(len, streams)))[:-1]
    for every in (1, 2, 7):
        assert_same(source, edges_to_parts(starts[::every]))
    parts = in_parts(source, 50)
    assert [part.start for part in parts] == [0, *starts] or len(parts) > 5 or size > 40
    assert_same(source, parts)


# ---- where its reader cuts it


def in_streams(content, size):
    return b"".join(bz2.compress(content[start : start + size]) for start in range(0, len(content), size))


def in_parts(source, wanted):
    parts = parts_of(source, wanted)
    assert parts[0].start == 0
    assert parts[-1].stop is None
    assert all(one.stop == other.start for one, other in itertools.pairwise(parts))
    assert len(parts) == 1 or sum(part.bytes for part in parts) <= source.bytes + len(parts)
    return parts


CELLS = st.sampled_from(
    ["a", "", '"a\nb"', '"x,y"', '"say ""no"""', 'q"q', '"bad"x', "é", "a\rb", "\ufeff", '"\n\n"', '"']
)


@given(st.lists(st.lists(CELLS, min_size=1, max_size=3), max_size=20), st.integers(1, 60), st.booleans())
@settings(few, max_examples=200)
def test_a_table_is_cut_between_rows_and_never_within_quotes(rows, wanted, marked):
    content = ("\ufeff" * marked + "text,id\n" + "\n".join(",".join(row) for row in rows)).encode()
    with tempfile.TemporaryDirectory() as folder:
        source = write(folder, "a.csv", content + b"\nlast,1\n")
        try:
            whole = records(source)[0]
        except InputError:
            return
        assert joined(source, in_parts(source, wanted)) == whole


TEXTS = [f"document {number} " + "of some words " * (number % 7) for number in range(40)]


@pytest.mark.parametrize("wanted", [1, 100, 1000, 3000, 10**6])
@pytest.mark.parametrize(
    ("name", "write_content"),
    [
        ("a.jsonl", jsonl),
        ("a.json", jsonl),
        ("a.log", jsonl),
        ("a.csv", table),
        ("a.tsv", lambda texts: table(texts, "\t")),
        ("a.parquet", lambda texts: parquet(texts, rows=3)),
        ("a.arrow", lambda texts: arrow(texts, stream=False, rows=3)),
        ("stream.arrow", lambda texts: arrow(texts, stream=True, rows=3)),
        ("a.warc", lambda texts: b"".join(crawl(texts))),
        ("a.warc.gz", lambda texts: b"".join(map(gzip.compress, crawl(texts)))),
        ("whole.warc.gz", lambda texts: gzip.compress(b"".join(crawl(texts)))),
        ("a.wet", lambda texts: b"".join(wet(texts))),
        ("a.jsonl.gz", lambda texts: gzip.compress(jsonl(texts))),
        ("a.xml", wikipedia),
        ("a.xml.bz2", lambda texts: in_streams(wikipedia(texts), 1000)),
        ("whole.xml.bz2", lambda texts: bz2.compress(wikipedia(texts))),
        ("a.txt", separated),
    ],
)
def test_every_format_in_parts_holds_each_record_once(name, write_content, wanted, tmp_path):
    source = write(tmp_path, name, write_content(TEXTS), separator=b"\n<|end|>\n")
    parts = in_parts(source, wanted)
    assert_same(source, parts)
    assert [document for _, document in joined(source, parts)] == [text.strip().encode() for text in TEXTS] or (
        [document for _, document in joined(source, parts)] == [text.encode() for text in TEXTS]
    )
    can_be_cut = name not in ("stream.arrow", "whole.warc.gz", "a.jsonl.gz", "whole.xml.bz2")
    assert (len(parts) > 1) == (can_be_cut and wanted < 3000) or wanted in (1000, 3000)


def test_damage_in_a_crawl_is_in_one_part_alone(tmp_path):
    records_of_crawl = wet(TEXTS)
    for name, pack in (("a.wet", bytes), ("a.wet.gz", gzip.compress)):
        packed = [pack(each) for each in records_of_crawl]
        for place in (1, 20, 39):
            packed.insert(place, b"garbage\n" * 30)
        source = write(tmp_path, name, b"".join(packed))
        parts = in_parts(source, 400)
        assert len(parts) > 5
        assert_same(source, parts)
        documents = [document for _, document in joined(source, parts) if isinstance(document, bytes)]
        assert documents == [text.encode() for text in TEXTS]


def test_what_looks_like_a_record_within_another_is_none(tmp_path):
    inner = record(b"inner")
    source = write(tmp_path, "a.wet", b"".join([record(b"one\n" + inner), record(inner * 3), record(b"last")]))
    parts = in_parts(source, 1)
    assert len(parts) == 3
    assert_same(source, parts)
    assert len(records(source)[0]) == 3


def test_a_record_longer_than_many_parts_is_read_once(tmp_path):
    texts = ["short", "long " * 500, "short again"]
    source = write(tmp_path, "a.jsonl", jsonl(texts), most_bytes=1000)
    edges = edges_to_parts(range(10, source.bytes, 10))
    assert [document for _, document in joined(source, edges)] == [b"short", Rejected(TOO_LARGE), b"short again"]


def test_only_what_can_be_read_from_the_middle_is_cut(tmp_path):
    lines = jsonl(["text"] * 100)
    for name, content, parts in (
        ("a.jsonl", lines, True),
        ("b.json", lines, True),
        ("c.txt", lines, True),
        ("d.txt", b"text\n" * 1000, False),
        ("e.jsonl", gzip.compress(random.Random(0).randbytes(5000)), False),
        ("f.jsonl", lines.decode().encode("utf-16"), False),
    ):
        assert (len(parts_of(write(tmp_path, name, content), 500)) > 1) == parts, name


@pytest.mark.parametrize("mark", [b"\n", b"}\n"])
def test_what_a_file_turns_out_to_hold_goes_before_the_separator_in_parts_too(mark, tmp_path):
    for name, content in (
        ("a.txt", jsonl(TEXTS)),
        ("b.txt", page("\n\n".join(TEXTS))),
        ("c.txt", b"<svg>\n" + b"<text>x</text>}\n" * 200),
        ("d.txt", b"id,text\n" + b"1,x}\n" * 500),
        ("f.py", b"print()}\n" * 500),
    ):
        (tmp_path / "in").mkdir(exist_ok=True)
        write(tmp_path / "in", name, content)
        (source,) = find(tmp_path / "in" / name, separator=mark).sources
        source = replace(source, strict=False)
        assert_same(source, parts_of(source, 300))


def test_where_a_pass_would_be_needed_nothing_is_cut_at_once(tmp_path):
    for name, content, cut in (("a.csv", table(TEXTS), False), ("a.wet", b"".join(wet(TEXTS)), False)):
        source = write(tmp_path, name, content)
        assert len(parts_of(source, 500)) > 1
        assert (len(parts_of(source, 500, at_once=True)) > 1) == cut
    assert len(parts_of(write(tmp_path, "a.jsonl", jsonl(TEXTS)), 500, at_once=True)) > 1


# ---- in prepare


@pytest.mark.parametrize(("name", "write_content"), [("a.csv", table), ("a.wet", lambda texts: b"".join(wet(texts)))])
def test_a_file_that_must_be_read_to_be_cut_is_cut_once_if_it_is_a_large_share_of_all(
    name, write_content, tmp_path, monkeypatch
):
    monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", 500)
    large, small = write(tmp_path, name, write_content(TEXTS)), write(tmp_path, f"b{name}", write_content(TEXTS[:2]))
    store = DocumentStore(tmp_path / "partial", Buckets(1, 1), 0, deduplicate=True, shuffled=True)
    store.folder.mkdir()
    (found,) = find_cuts((small, large), store, in_process).items()
    assert found == (1, tuple(parts_of(large, 500)))
    monkeypatch.setattr("trainer.data.text.cuts.parts_of", None)
    assert find_cuts((small, large), store, in_process) == {1: found[1]}
    assert find_cuts((replace(large, bytes=10**9),) * 65, store, in_process) == {}
    items = work_items((small, large), {1: found[1]})
    assert [item.parts[0].part for item in items if item.part_of == 1] == list(found[1])
    for wrong in ("", "[]", '{"parts": []}', '{"parts": [{"start": 5, "stop": null, "bytes": 1}]}'):
        (store.folder / "cuts-000001.json").write_text(wrong)
        with pytest.raises(InputError, match=r"cuts-000001.json: can't be read"):
            find_cuts((small, large), store, in_process)


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


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.parquet", "a.arrow", "a.csv", "a.warc.gz"])
def test_prepare_writes_the_same_bytes_however_a_file_is_cut(name, tmp_path, monkeypatch):
    texts = write_texts(60)
    write_content = {"a.jsonl": jsonl, "a.txt": separated, "a.parquet": parquet, "a.csv": table}
    write_content["a.warc.gz"] = lambda texts: b"".join(map(gzip.compress, crawl(texts)))
    (tmp_path / name).write_bytes(write_content.get(name, lambda texts: arrow(texts, stream=False))(texts))
    outputs = []
    for size in (10**6, 500, 1700):
        monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", size)
        outputs.append(prepare(tmp_path / name, tmp_path / f"out {size}", separator=r"\n<|end|>\n"))
    first, *others = (shard_files(output) for output in outputs)
    assert all(other == first for other in others)
