"""From stored documents to parts: what is read for it, what is freed, which duplicate stays."""

import os
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.corpus import write_texts
from tests.prepared import configure, prepare, write_jsonl
from trainer.data.text import collect, document_store, split
from trainer.data.text.document_store import ROW, DocumentStore, DocumentWriter, Duplicates, read_pieces
from trainer.data.text.split import Buckets
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.verbs.prepare import main

WATCHED: list[Counter] = []


def _see(event, arguments):
    if event == "open" and WATCHED and isinstance(arguments[0], str | os.PathLike) and isinstance(arguments[2], int):
        path = Path(arguments[0])
        if path.parent.name == "partial" and not arguments[2] & os.O_CREAT:
            WATCHED[-1][path.suffix] += 1


sys.addaudithook(_see)


@pytest.fixture
def cut_small(monkeypatch):
    monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", 20_000)
    monkeypatch.setattr(split, "BUCKET_BYTES", 50_000)
    monkeypatch.setattr(split, "FILE_BYTES", 100_000)


def test_stored_documents_are_opened_twice_for_each_bucket_and_their_texts_read_once(tmp_path, cut_small, monkeypatch):
    """And parts once for each shard: nothing is opened, or sought, for each document."""
    read = Counter()
    read_at = document_store._read_at

    def counted(file, offset, size):
        read[Path(file.name).suffix if isinstance(file.name, str) else "text"] += 1
        read["bytes"] += size
        return read_at(file, offset, size)

    monkeypatch.setattr(document_store, "_read_at", counted)
    path = write_jsonl(tmp_path / "a.jsonl", write_texts(1500))
    size, counts = path.stat().st_size, Counter()
    WATCHED.append(counts)
    try:
        out = prepare(path, tmp_path / "out", shard_bytes=100_000)
    finally:
        WATCHED.pop()
    items, buckets, shards = size // 20_000, -(-size // 50_000), len(read_manifest(out / "train").shards)
    assert items * buckets < counts[".documents"] <= 2 * items * buckets
    assert counts[".text"] <= 2 * (shards + buckets) + 2 * buckets  # shards, and samples of all of this text
    assert read["text"] <= items * buckets + 4 * (shards + buckets)
    assert read["bytes"] < 4.1 * read_manifest(out / "train").text_bytes  # gathered, sampled twice, encoded


def test_what_was_stored_is_removed_as_it_is_used(tmp_path, cut_small, monkeypatch):
    """A part of the text is there twice, never all of it; and no text is left when the last shard is written."""
    path = write_jsonl(tmp_path / "a.jsonl", write_texts(1000))
    text = read_manifest(prepare(path, tmp_path / "calm", shard_bytes=50_000) / "train").text_bytes
    sizes = []
    replace = os.replace

    def watching(source, target):
        replace(source, target)
        left = [file for file in (tmp_path / "out" / "partial").glob("*") if file.suffix in (".documents", ".text")]
        sizes.append(sum(file.stat().st_size for file in left))

    monkeypatch.setattr("trainer.machine.durable.os.replace", watching)
    monkeypatch.setattr("trainer.verbs.prepare.shutil.rmtree", lambda *_, **__: sizes.append(-1))
    main(configure(path, tmp_path / "out", shard_bytes=50_000))
    assert max(sizes) < 1.3 * text + 1000 * ROW.itemsize + 50_000
    assert sizes[-1] == -1
    assert [file.name for file in (tmp_path / "out" / "partial").glob("*.text")] == []


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("size", [300, 3000, 10**6])
def test_the_first_of_equal_documents_in_source_order_stays_however_the_work_is_cut(
    tmp_path, monkeypatch, size, shuffled
):
    monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", size)
    monkeypatch.setattr(split, "BUCKET_BYTES", size)
    monkeypatch.setattr(split, "FILE_BYTES", 2 * size)
    monkeypatch.setattr(document_store, "RUN_ROWS", 7)
    draw = random.Random(0)
    texts = [[f"text {draw.randrange(40)} of them" for _ in range(60)] for _ in range(3)]
    paths = [write_jsonl(tmp_path / f"{number}.jsonl", part) for number, part in enumerate(texts)]
    seen, expected = set(), set()
    for source, part in enumerate(texts):
        for record, text in enumerate(part):
            if text not in seen:
                expected.add((source, record))
                seen.add(text)
    manifest = read_manifest(prepare(paths, tmp_path / "out", shuffle_documents=shuffled) / "train")
    spans = [span for reader in open_shards(manifest) for span in reader.documents(0, reader.tokens)]
    assert {(span.source, span.record) for span in spans} == expected
    assert manifest.rejected == {"duplicate": 180 - len(expected)}


def test_duplicates_are_counted_with_the_first_of_them():
    rows = np.zeros(4, ROW)
    rows["source"], rows["record"] = [2, 1, 1, 3], [0, 5, 4, 9]
    duplicates = Duplicates()
    for part in (rows[:0], rows[:2], rows[2:]):
        duplicates.add(part)
    assert (duplicates.count, duplicates.first) == (4, (1, 4))


def test_a_writer_puts_each_document_into_the_piece_of_its_bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(document_store, "RUN_BYTES", 500)
    store = DocumentStore(tmp_path, Buckets(7, 3), 5, deduplicate=True, shuffled=True)
    texts = [text.encode() for text in write_texts(50)]
    files = [store.documents_path(0, number).open("wb") for number in range(3)]
    writer = DocumentWriter(store, files)
    for record, text in enumerate([*texts, texts[-1]]):
        writer.add(0, record, text)
    writer.close()
    for file in files:
        file.close()
    found = {}
    for bucket in range(7):
        content = store.holding(0, bucket).read_bytes()
        for rows in read_pieces(store, 0, bucket):
            for row in rows:
                found[int(row["record"])] = content[row["offset"] : row["offset"] + row["length"]]
    assert found == dict(enumerate(texts))
    assert (writer.documents, writer.text_bytes, writer.duplicates.count) == (50, sum(map(len, texts)), 1)
