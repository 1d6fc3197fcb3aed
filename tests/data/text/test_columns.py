"""Tables, Parquet and Arrow: the column of texts, rows that are broken, and files that are."""

import csv
import io
import json
import sys

import pytest

from tests.corpus import write_texts
from tests.data.text.formats import arrow, parquet, table
from tests.data.text.reading import assert_refused, find, read
from trainer.data.text.documents import read_documents
from trainer.data.text.filters import BAD_RECORD, BAD_ROW, EMPTY, NO_TEXT_FIELD, TOO_LARGE, UNDECODABLE
from trainer.data.text.readers.arrow import END_OF_STREAM
from trainer.data.text.records import Rejected

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TEXTS = write_texts(30)
DOCUMENTS = [text.encode() for text in TEXTS]


# ---- comma-separated values


def test_rows_are_those_of_pythons_reader(tmp_path):
    content = 'id,text\n1,"a ""b"", c"\n2,"two\nlines"\n\n3,plain\n4,""\n5,"tab\there"\n'
    (tmp_path / "a.csv").write_text(content)
    expected = [row[1] for row in list(csv.reader(io.StringIO(content)))[1:] if row]
    found = ["" if document == Rejected(EMPTY) else document.decode() for document in read(tmp_path / "a.csv")]
    assert found == expected


def test_broken_rows_are_counted_by_their_place(tmp_path):
    rows = [
        "text,id",
        "good,1",
        '"bad"x,2',
        "too,many,fields",
        "few",
        '"good, too",3',
        "\udcff,4",
        "a\0b,5",
        '"open,6',
        "x,7",
    ]
    (tmp_path / "a.csv").write_bytes("\n".join(rows).encode("utf-8", "surrogateescape"))
    documents = read(tmp_path / "a.csv")
    rejected = [BAD_ROW, BAD_ROW, BAD_ROW, UNDECODABLE, UNDECODABLE, BAD_ROW]
    assert [document for document in documents if isinstance(document, bytes)] == [b"good", b"good, too"]
    assert [document.reason for document in documents if isinstance(document, Rejected)] == rejected
    assert str(documents[1]).startswith("row 2: ")


def test_a_quote_that_is_never_closed_is_refused_once_it_is_longer_than_any_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'text,id\n"open,1\n' + b"x,2\n" * 2**19)
    assert_refused(tmp_path / "a.csv", "quote", "isn't closed", most_bytes=1000)
    (tmp_path / "a.csv").write_bytes(b"text,id\n" + b"x" * 2**22 + b",1\ngood,2\n")
    assert read(tmp_path / "a.csv", most_bytes=1000) == [Rejected(BAD_ROW), b"good"]
    (tmp_path / "a.csv").write_bytes(b"text,id\n" + b"x" * 2000 + b",1\ngood,2\n")
    assert read(tmp_path / "a.csv", most_bytes=1000) == [Rejected(TOO_LARGE), b"good"]


def test_tables_without_the_column_are_refused_if_named_and_left_out_of_folders(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,body\n1,x\n")
    (tmp_path / "b.txt").write_text("text")
    assert_refused(tmp_path / "a.csv", "no column text", "id, body", "data.text_field")
    assert read(tmp_path) == [b"text"]
    assert find(tmp_path).left_out == 1
    assert read(tmp_path / "a.csv", text_field="body") == [b"x"]
    for content in (b"", b"\n\n"):
        (tmp_path / "a.csv").write_bytes(content)
        assert_refused(tmp_path / "a.csv", "a.csv", "no table")


# ---- Parquet


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary", "large_binary", "dictionary"])
def test_every_type_of_text_is_read(kind, tmp_path):
    of = pa.dictionary(pa.int32(), pa.string()) if kind == "dictionary" else getattr(pa, kind)()
    texts = [*TEXTS, None, "", " \n", "a\0b"]
    column = (
        pa.array(texts, pa.string()).cast(of) if kind != "dictionary" else pa.array(texts).dictionary_encode().cast(of)
    )
    content = pa.table({"other": list(range(len(texts))), "text": column})
    rejected = [Rejected(reason) for reason in (NO_TEXT_FIELD, EMPTY, EMPTY, UNDECODABLE)]
    pq.write_table(content, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "b.arrow", content.schema) as writer:
        writer.write_table(content)
    for name in ("a.parquet", "b.arrow"):
        assert read(tmp_path / name) == [*DOCUMENTS, *rejected]


def test_text_in_parquet_that_is_no_utf8_is_rejected_alone(tmp_path):
    column = pa.array([b"one", b"\xff\xfe", b"two"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [b"one", Rejected(UNDECODABLE), b"two"]


def test_columns_that_are_missing_or_no_text_are_refused_in_one_line(tmp_path):
    for name, write in (("a.parquet", parquet), ("b.arrow", lambda texts: arrow(texts, stream=True))):
        (tmp_path / name).write_bytes(write(TEXTS))
        assert_refused(tmp_path / name, name, "no column body", "id, text", "data.text_field", text_field="body")
        assert_refused(tmp_path / name, name, "int64", "no text", text_field="id")


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_broken_row_group_is_counted_and_the_others_are_read(compression, tmp_path):
    content = bytearray(parquet(TEXTS, rows=10, compression=compression, use_dictionary=False))
    group = pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(1)
    start = group.data_page_offset
    content[start : start + 60] = b"\xff" * 60
    (tmp_path / "a.parquet").write_bytes(content)
    documents = read(tmp_path / "a.parquet")
    assert documents == [*DOCUMENTS[:10], Rejected(BAD_RECORD), *DOCUMENTS[20:]]
    assert "row group 2" in str(documents[10])
    assert "10 of its rows" in str(documents[10])


def test_broken_files_are_refused_in_one_line(tmp_path):
    whole = parquet(TEXTS)
    for content in (
        whole[:-50],
        whole[:100],
        b"",
        b"PAR1",
        b"PAR1" + bytes(100) + b"PAR1",
        whole[:-8] + b"\xff" * 4 + b"PAR1",
    ):
        (tmp_path / "a.parquet").write_bytes(content)
        assert_refused(tmp_path / "a.parquet", "a.parquet", "no whole Parquet file")
    for stream in (False, True):
        whole = arrow(TEXTS, stream=stream)
        for content in (whole[:-50], whole[:100], b"", b"ARROW1", whole[: len(whole) // 2], b"\xff" * 100):
            (tmp_path / "a.arrow").write_bytes(content)
            assert_refused(tmp_path / "a.arrow", "a.arrow", "no whole Arrow file or stream")


def test_a_stream_that_is_cut_between_batches_is_no_whole_one(tmp_path):
    whole = arrow(TEXTS, stream=True)
    assert whole.endswith(END_OF_STREAM)
    (tmp_path / "a.arrow").write_bytes(whole[: -len(END_OF_STREAM)])
    assert_refused(tmp_path / "a.arrow", "it has no end")


def test_a_batch_that_lies_about_its_texts_is_rejected_and_never_read_out_of_bounds(tmp_path):
    whole = arrow(TEXTS, stream=False, rows=10)
    first = [0, *(sum(map(len, DOCUMENTS[10 : 10 + count])) for count in range(1, 4))]
    offsets = b"".join(offset.to_bytes(4, "little") for offset in first)
    place = whole.index(offsets)
    for lie in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"):
        (tmp_path / "a.arrow").write_bytes(whole[: place + 8] + lie + whole[place + 12 :])
        assert read(tmp_path / "a.arrow") == [*DOCUMENTS[:10], Rejected(BAD_RECORD), *DOCUMENTS[20:]]


def test_a_value_above_the_bound_is_counted(tmp_path):
    pq.write_table(pa.table({"text": ["a" * 2**20, "b"]}), tmp_path / "a.parquet", compression="zstd")
    assert read(tmp_path / "a.parquet", most_bytes=1000) == [Rejected(TOO_LARGE), b"b"]


def test_a_dataset_saved_on_disk_is_read_without_the_caches_beside_it(tmp_path):
    for split, texts in (("train", TEXTS[:20]), ("test", TEXTS[20:])):
        folder = tmp_path / split
        folder.mkdir()
        (folder / "data-00000-of-00002.arrow").write_bytes(arrow(texts[:5], stream=True))
        (folder / "data-00001-of-00002.arrow").write_bytes(arrow(texts[5:], stream=True))
        (folder / "cache-1a2b.arrow").write_bytes(arrow(TEXTS, stream=True))
        names = [{"filename": f"data-0000{number}-of-00002.arrow"} for number in range(2)]
        (folder / "state.json").write_text(json.dumps({"_data_files": names, "_split": split}))
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(tmp_path) == [*DOCUMENTS[20:], *DOCUMENTS[:20]]
    assert "2 Arrow files that aren't of the dataset saved beside them" in str(find(tmp_path).others)
    (tmp_path / "train" / "state.json").write_text("[" * 10_000)
    assert len(read(tmp_path)) == 60


def test_the_missing_library_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(parquet(TEXTS))
    (tmp_path / "b.csv").write_bytes(table(TEXTS))
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert_refused(tmp_path / "a.parquet", "pyarrow", 'pip install "banyan-train[data]"')
    assert read(tmp_path / "b.csv") == DOCUMENTS


def test_a_large_value_that_is_stored_once_is_held_once(tmp_path):
    """Equal values are stored once; taken together they could be thousands of times the file."""
    text = "ab " * 2**21
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0] * 20), pa.array([text, "x y"]))
    for number, column in enumerate((texts, texts.dictionary_decode())):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"text": column}), path, compression="zstd")
        before, most = pa.total_allocated_bytes(), 0
        (source,) = find(path, most_bytes=2**27).sources
        lengths = []
        for _, document in read_documents(source):
            lengths.append(len(document) if isinstance(document, bytes) else document.reason)
            most = max(most, pa.total_allocated_bytes() - before)
        assert lengths == [len(text), 3, NO_TEXT_FIELD, len(text)] * 20
        assert most < 8 * len(text)
