"""prepare over sources of every kind: the same shards, an account of every record, and refusals with exit code 2."""

import json
import re
import time

import pytest

from tests.corpus import write_texts
from tests.data.text.formats import crawl, every_format, jsonl, record, response, wet
from tests.data.text.servers import RangeHandler, bucket_server, fill_bucket, served_folder
from tests.killed import assert_same_after_kills, large_files
from tests.prepared import configure, prepare, shard_files
from trainer.config import TextSource
from trainer.data.text import collect, remote
from trainer.data.tokens.manifest import read_manifest
from trainer.errors import ConfigError, InputError
from trainer.verbs.prepare import main

TEXTS = write_texts(30)


def train_shards(output):
    """The content of the training shards, but for the source numbers beside the tokens."""
    return {name: content for name, content in shard_files(output).items() if "shard" in name and name.endswith("tar")}


def test_every_format_gives_the_same_shards(tmp_path):
    names = ("lines.jsonl", "utf16.jsonl", "table.csv", "rows.parquet", "stream.arrow", "shard.tar", "crawl.warc.gz")
    files = every_format(TEXTS)
    outputs = []
    for name in (*names, "text.wet", "dump.xml.bz2"):
        (tmp_path / name).write_bytes(files[name])
        outputs.append(prepare(tmp_path / name, tmp_path / f"{name}.out"))
    manifests = [read_manifest(output / "train") for output in outputs]
    assert len({manifest.tokens for manifest in manifests}) == 1
    assert {manifest.documents for manifest in manifests} == {len(TEXTS)}
    assert len({tuple(train_shards(output).values()) for output in outputs}) == 1


def test_sums_of_kept_and_rejected_equal_an_independent_count(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    pages = [
        *crawl(TEXTS[:10]),
        response(b"\xff\xfe\xff", "text/html"),
        response(b"<p>" * 3 + b"<div>" * 5000, "text/html"),
    ]
    (folder / "a.warc").write_bytes(b"".join([*pages, b"garbage\n", record(b" \n"), record(TEXTS[0].encode())]))
    (folder / "b.csv").write_text("text,id\n" + "".join(f'"{text}",1\n' for text in TEXTS[10:15]) + "x\n")
    (folder / "c.jsonl").write_bytes(jsonl(TEXTS[15:]) + b"no json\n{}\n")
    output = prepare(folder, tmp_path / "out")
    manifest = read_manifest(output / "train")
    assert manifest.documents == len(TEXTS)
    expected = {"bad_json": 1, "bad_record": 1, "bad_row": 1, "duplicate": 1, "empty": 1, "no_text_field": 1}
    assert manifest.rejected == expected | {"too_deep": 1, "undecodable": 1}
    assert manifest.documents_read == 10 + 2 + 3 + 6 + 15 + 2
    assert manifest.documents_read == manifest.documents + sum(manifest.rejected.values())
    assert manifest.prepared["changed"] == {"HTML to text by resiliparse": 10}
    stored = json.loads((output / "train" / "manifest.json").read_text())
    assert all(isinstance(count, int) for count in stored["rejected"].values())


def test_every_source_has_its_licence_in_the_manifest(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS[:10]))
    (tmp_path / "b.wet").write_bytes(b"".join(wet(TEXTS[10:20])))
    (tmp_path / "c.csv").write_text("body\n" + "\n".join(TEXTS[20:]))
    sources = {
        "web": TextSource(input=[str(tmp_path / "b.wet")], licence="unknown", language="en"),
        "table": TextSource(input=[str(tmp_path / "c.csv")], licence="CC0", text_field="body", format="csv"),
    }
    output = prepare(tmp_path / "a.jsonl", tmp_path / "out", licence="MIT", sources=sources)
    manifest = read_manifest(output / "train")
    assert manifest.documents == len(TEXTS)
    assert [group.licence for group in manifest.sources] == ["MIT", "unknown", "CC0"]
    assert manifest.prepared["data.sources"]["web"]["language"] == "en"
    refused = {"licence": "MIT", "sources": sources, "refuse_licences": ["unknown"]}
    with pytest.raises(ConfigError, match=r"data\.sources\.web: its licence is unknown"):
        main(configure(tmp_path / "a.jsonl", tmp_path / "other", **refused))


@pytest.mark.parametrize(
    "change",
    [
        {"encoding": "gb18030"},
        {"html": "trafilatura"},
        {"separator": "x"},
        {"format": "jsonl"},
        {"language": "zh"},
        {"licence": "MIT"},
        {"sources": {"more": TextSource(licence="MIT")}},
    ],
)
def test_a_setting_that_decides_the_documents_makes_other_data_of_an_output(change, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(TEXTS))
    output = prepare(path, tmp_path / "out")
    if "sources" in change:
        change["sources"]["more"].input = [str(path)]
    with pytest.raises((ConfigError, InputError), match="holds other data"):
        main(configure(path, output, **change))
    assert main(configure(path, output)) == 0


def test_bad_sources_end_the_run_with_exit_code_2_and_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS))
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    for inputs, settings in (
        ("a.jsonl", {"encoding": "klingon"}),
        ("b.parquet", {}),
        ("gone.warc.gz", {}),
        ("a.jsonl", {"format": "parquet"}),
        ("a.jsonl", {"format": "klingon"}),
        ("a.jsonl", {"html": "lynx"}),
    ):
        with pytest.raises((ConfigError, InputError)) as error:
            main(configure(tmp_path / inputs, tmp_path / "out", **settings))
        assert error.value.exit_code == 2
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out" / "train").exists()


# ---- interruption


@pytest.mark.parametrize(
    ("kills", "workers"), [(2, 2), *(pytest.param(15, workers, marks=pytest.mark.full) for workers in (1, 2, 3))]
)
def test_killed_at_random_moments_every_format_gives_the_same_bytes(kills, workers, tmp_path):
    assert_same_after_kills([str(large_files(tmp_path / "in"))], tmp_path, kills=kills, workers=workers)


@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 3])
def test_killed_while_it_reads_over_http_prepare_gives_the_same_bytes(workers, tmp_path):
    folder = large_files(tmp_path / "in")
    with served_folder(folder, RangeHandler) as url:
        names = [f"{url}/{path.name}" for path in sorted(folder.iterdir())]
        assert_same_after_kills(names, tmp_path, kills=10, workers=workers)


def test_a_bucket_that_goes_away_midway_ends_prepare_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", 20_000)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(remote, "BLOCK", 10_000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(jsonl(write_texts(500)))
    calm = prepare(tmp_path / "in" / "a.jsonl", tmp_path / "calm")
    with bucket_server() as server:
        bucket = fill_bucket(tmp_path / "in")
        config, partial = configure(f"{bucket}/a.jsonl", tmp_path / "out"), tmp_path / "out" / "partial"
        read = remote.RangeFile._range

        def read_until_it_stops(*request):
            if len(list(partial.glob("read-*.json"))) == 4:
                server.stop()
            return read(*request)

        monkeypatch.setattr(remote.RangeFile, "_range", read_until_it_stops)
        with pytest.raises(InputError) as error:
            main(config)
        assert error.value.exit_code == 2
        assert re.match(rf"{bucket}/a.jsonl: can't be read, tried 6 times \(.*it continues\.$", str(error.value))
        assert len(list(partial.glob("read-*.json"))) == 4
        monkeypatch.setattr(remote.RangeFile, "_range", read)
        server.start()
        assert main(config) == 0
    assert shard_files(tmp_path / "out") == shard_files(calm)
    assert "was interrupted; what it left" in capsys.readouterr().out
