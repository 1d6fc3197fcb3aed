"""Bad input of every kind: what is wrong with a document is counted, what is wrong with the run ends it in one line."""

import gzip
import io
import json
import time

import pytest
import zstandard

from launch.cli import main as banyan
from tests.corpus import write_texts
from tests.data.text.formats import jsonl, parquet, wet, wikipedia
from tests.prepared import prepare
from trainer.data.tokens.manifest import read_manifest

TEXTS = write_texts(90)
CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
DEEP = b"<html><body>" + b"<div>" * 10_000 + b"text"


def broken_row_group(texts):
    """Parquet of which the second of three row groups is overwritten."""
    import pyarrow.parquet

    content = bytearray(parquet(texts, rows=10, compression="none", use_dictionary=False))
    place = pyarrow.parquet.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(1).data_page_offset
    content[place : place + 60] = b"\xff" * 60
    return bytes(content)


def test_what_is_wrong_with_documents_is_counted_by_reason_and_the_others_are_kept(tmp_path, capsys):
    records = wet(TEXTS[:30])
    (tmp_path / "in").mkdir()
    for name, content in {
        "bomb.html.gz": gzip.compress(b"<html>" + bytes(2**25)),
        "brackets.jsonl": jsonl(TEXTS[60:]) + b"[" * 10_000 + b"\n",
        "brackets.xml": wikipedia(["{{" * 10_000]),
        "crawl.wet": b"".join([*records[:9], b"garbage\n" * 9, *records[9:]]) + records[0][:-50],
        "deep.html": DEEP,
        "legacy.txt": CHINESE.encode("gb18030"),
        "rows.parquet": broken_row_group(TEXTS[30:60]),
    }.items():
        (tmp_path / "in" / name).write_bytes(content)
    with open(tmp_path / "in" / "huge.html", "wb") as file:
        file.write(b"<html>")
        file.truncate(200_000_000)
    manifest = read_manifest(prepare(tmp_path / "in", tmp_path / "out", most_document_bytes=2**24) / "train")
    assert manifest.rejected == {"bad_json": 1, "bad_record": 3, "too_deep": 2, "too_large": 2, "undecodable": 1}
    assert manifest.documents == 30 + 20 + 30
    assert manifest.documents_read == manifest.documents + sum(manifest.rejected.values())
    stored = json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())
    assert stored["rejected"] == manifest.rejected
    said = capsys.readouterr().out
    assert "bad_record: first crawl.wet, garbage instead of a record" in said
    assert "undecodable: first legacy.txt, byte 1: perhaps GB18030, a guess" in said


BAD_RUNS = {
    "cut.jsonl.gz": (gzip.compress(jsonl(TEXTS))[:-9], "damaged or cut short"),
    "cut.jsonl.zst": (zstandard.compress(jsonl(TEXTS))[:-9], "cut short within a zstandard frame"),
    "column.parquet": (parquet(TEXTS), "no column body (id, text): set data.text_field"),
    "end.parquet": (parquet(TEXTS)[:-9], "no whole Parquet file"),
    "legacy.txt": (CHINESE.encode("gb18030"), "name its encoding by data.encoding"),
    "prose.warc.gz": (gzip.compress(b"prose\n"), "holds no WARC record"),
    "array.json": (json.dumps([{"text": text} for text in TEXTS]).encode(), "a JSON array"),
    "picture.svg": (b"<svg></svg>", "XML by its name"),
}


NOWHERE = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize("name", [*BAD_RUNS, "http://127.0.0.1:9/x.jsonl", "s3://bucket/x.jsonl", "gone.txt"])
def test_what_is_wrong_with_the_run_ends_it_with_exit_code_2_and_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    for variable, value in NOWHERE.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    content, why = BAD_RUNS.get(name, (None, "no such file" if name == "gone.txt" else "tried 6 times"))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    settings = ["data.output=out", "data.workers=1"] + ["data.text_field=body"] * (name == "column.parquet")
    assert banyan(["prepare", f"data.input={name}", *settings]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert why in line
    assert not list(tmp_path.glob("out/*"))
