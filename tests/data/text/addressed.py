"""A folder of files of every kind whose records have an address."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from tests.data.text.formats import crawl


def write_addressed(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """The rows, each a text and its address, as JSON lines, CSV, Parquet and Arrow; their texts as a crawl, too."""
    folder.mkdir()
    records = [{"text": f"lines: {text}", "url": url} for text, url in rows]
    lines = [json.dumps(record) for record in [*records, {"text": "", "url": rows[0][1]}, {"text": "none", "url": 3}]]
    (folder / "a.jsonl").write_text("\n".join(lines))
    table = io.StringIO()
    csv.writer(table).writerows([("url", "text"), *((url, f"table: {text}") for text, url in rows)])
    (folder / "b.csv").write_text(table.getvalue())
    columns = pyarrow.table({"url": [url for _, url in rows], "text": [f"rows: {text}" for text, _ in rows]})
    pyarrow.parquet.write_table(columns, folder / "c.parquet", row_group_size=4)
    with pyarrow.ipc.new_stream(folder / "d.arrow", columns.schema) as writer:
        writer.write_table(columns)
    (folder / "e.warc").write_bytes(b"".join(crawl([text for text, _ in rows])))
    return folder
