"""Examples in tables become the same shards as in JSON lines, and what a table can't hold is said by its row."""

import csv
import io
import json

import pytest

from tests.prepared import prepare, shard_files
from trainer.data.tokens.manifest import read_manifest
from trainer.errors import InputError

pyarrow = pytest.importorskip("pyarrow")

CHATS = [
    {
        "messages": [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": f"what, {n}?\nsay it"},
            {"role": "assistant", "content": f'the "root" {n}', "weight": n % 2},
        ]
    }
    for n in range(1, 80)
]
PAIRS = [{"prompt": f"[{n}] every root", "completion": f" finds {n}"} for n in range(70)]
ALPACA = [{"instruction": f"say {n}", "input": "" if n % 2 else None, "output": f"{n}, said"} for n in range(40)]


def as_jsonl(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def as_table(records, delimiter=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: v if isinstance(v, str) or v is None else json.dumps(v) for k, v in record.items()})
    return out.getvalue().encode()


def as_parquet(records):
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), sink, row_group_size=30)
    return sink.getvalue().to_pybytes()


def as_arrow(records):
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(records)
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=25)
    return sink.getvalue().to_pybytes()


WRITERS = {
    "csv": as_table,
    "tsv": lambda records: as_table(records, "\t"),
    "parquet": as_parquet,
    "arrow": as_arrow,
}
RECORDS = {"chat": CHATS, "prompt_completion": PAIRS, "alpaca": ALPACA}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The shards of the records as JSON lines."""
    folder, found = tmp_path_factory.mktemp("plain"), {}
    for name, records in RECORDS.items():
        (folder / f"{name}.jsonl").write_bytes(as_jsonl(records))
        form = "chat" if name == "alpaca" else name
        found[name] = shard_files(prepare(folder / f"{name}.jsonl", folder / name, format=form))
    return found


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", RECORDS)
def test_a_table_becomes_the_shards_of_the_same_json_lines(plain, tmp_path, kind, name):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"part.{kind}").write_bytes(WRITERS[kind](RECORDS[name]))
    found = shard_files(prepare(folder, tmp_path / "out", format="chat" if name == "alpaca" else name))
    assert {path: content for path, content in found.items() if path.endswith(".tar")} == {
        path: content for path, content in plain[name].items() if path.endswith(".tar")
    }


@pytest.mark.parametrize("kind", WRITERS)
def test_a_bad_row_is_named(tmp_path, kind):
    records = [*PAIRS[:66], {"prompt": "a", "completion": " "}]
    (tmp_path / f"pairs.{kind}").write_bytes(WRITERS[kind](records))
    with pytest.raises(InputError, match=rf"pairs.{kind}, row 67: an empty completion; mend the record"):
        prepare(tmp_path / f"pairs.{kind}", tmp_path / "out", format="prompt_completion")
    out = prepare(tmp_path / f"pairs.{kind}", tmp_path / "out", format="prompt_completion", bad_records="reject")
    assert read_manifest(out / "train").rejected == {"empty_answer": 1}


def test_broken_tables_are_refused_or_their_rows_counted(tmp_path):
    whole = as_parquet(PAIRS)
    (tmp_path / "cut.parquet").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"cut.parquet: no whole Parquet file"):
        prepare(tmp_path / "cut.parquet", tmp_path / "out", format="prompt_completion")
    (tmp_path / "cut.arrow").write_bytes(as_arrow(PAIRS)[:-100])
    with pytest.raises(InputError, match=r"cut.arrow: no whole Arrow file or stream"):
        prepare(tmp_path / "cut.arrow", tmp_path / "out", format="prompt_completion")
    (tmp_path / "twice.csv").write_bytes(b"prompt,prompt\na,b\n")
    with pytest.raises(InputError, match=r"twice.csv: two columns have one name"):
        prepare(tmp_path / "twice.csv", tmp_path / "out", format="prompt_completion")
    (tmp_path / "odd.csv").write_bytes(as_table(PAIRS) + b"only one\r\na\xff, b\r\n")
    out = prepare(tmp_path / "odd.csv", tmp_path / "out", format="prompt_completion")
    assert read_manifest(out / "train").rejected == {"bad_row": 1, "undecodable": 1}
    (tmp_path / "none.csv").write_bytes(b"id,note\n1,b\n")
    with pytest.raises(InputError, match=r"none.csv, row 1: no texts in prompt and completion, but the fields 'id'"):
        prepare(tmp_path / "none.csv", tmp_path / "none", format="prompt_completion")
