"""`banyan data trace`: from a document to the exports that have seen it, and back; on pushed and pulled data."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from tests.data.share.sets import fingerprint_of, make_output, pull, push
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.config import Export
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import Shards
from trainer.errors import ConfigError, InputError
from trainer.run.provenance import open_order, spans_in_row
from trainer.verbs.data import main
from trainer.verbs.export import main as export


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """data/mine, pushed, and pulled as data/pulled; runs/a on the one and runs/b on the other; models/a, exported."""
    folder = tmp_path_factory.mktemp("work")
    output = make_output(folder / "made")
    shutil.copytree(output, folder / "data" / "mine")
    assert push(folder / "data" / "mine", folder / "elsewhere" / "sets") == 0
    assert pull(fingerprint_of(output), folder / "elsewhere" / "sets", folder / "data" / "pulled") == 0
    for name, data in (("a", "mine"), ("b", "pulled")):
        config = small_config(folder / "data" / data, folder / "runs" / name, checkpoint__every=4, checkpoint__keep=5)
        assert run_ranks(pretrain, config, 1) == [0]
    settings = Export(format="hf")
    settings.run.dir = str(folder / "runs" / "a")
    settings.export = replace(settings.export, output=str(folder / "models" / "a"), loss_rows=2)
    assert export(settings) == 0
    return folder


def traced(capsys, *arguments):
    capsys.readouterr()
    assert main(["trace", *map(str, arguments), "format=json"]) == 0
    return json.loads(capsys.readouterr().out)


def said(capsys, *arguments):
    capsys.readouterr()
    assert main(["trace", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_run_on_what_was_pulled_is_the_same_run(work):
    losses = [[row["train/loss"] for row in read_metrics(work / "runs" / name)] for name in "ab"]
    assert len(losses[0]) == 10
    assert losses[0] == losses[1]


def test_a_fingerprint_leads_to_runs_checkpoints_and_exports(work, capsys):
    fingerprint = fingerprint_of(work / "data" / "mine")
    found = traced(capsys, fingerprint[:8], work)
    assert (found["kind"], [each["fingerprint"] for each in found["datasets"]]) == ("data set", [fingerprint])
    first, second = sorted(found["runs"], key=lambda run: run["run_dir"])
    assert [run["takes"][0]["rows"] for run in (first, second)] == [80, 80]
    assert (first["takes"][0]["first_step"], first["takes"][0]["last_step"]) == (1, 10)
    assert [each["step"] for each in first["checkpoints"]] == [4, 8, 10]
    assert [(each["folder"], each["steps"], each["there"]) for each in first["exports"]] == [
        (str(work / "models" / "a"), [10], True)
    ]
    assert second["exports"] == []
    text = said(capsys, fingerprint, work)
    assert "licences: CC0-1.0, not stated" in text
    assert "took        80 rows of train" in text


def test_a_document_leads_to_its_shard_and_the_steps_that_read_it(work, capsys):
    run_dir = work / "runs" / "a"
    opened = open_order(run_dir)
    read = {}
    for step in range(1, 11):
        for place in opened.order.places(*opened.history.positions_of(step)):
            dataset = opened.datasets[place.fingerprint]
            for document, _, _ in spans_in_row(dataset, place.shard, place.row):
                read.setdefault(document.xxh3, set()).add(step)
    manifest = read_manifest(work / "data" / "mine" / "train")
    documents = [
        (shard, span)
        for shard, reader in zip(manifest.shards, Shards(manifest), strict=True)
        for span in reader.documents(0, shard.tokens)
    ]
    unread = next(span for _, span in documents if span.xxh3 not in read)
    for shard, span in [*documents[:3], *documents[-2:]]:
        found = traced(capsys, span.xxh3, work)
        (document,) = found["documents"]
        assert document["shard"].endswith(f"train/{shard.file}")
        assert (document["start"], document["stop"], document["record"]) == (span.start, span.stop, span.record)
        assert document["licence"] == manifest.licence_of(span.source)
        steps = sorted(read.get(span.xxh3, ()))
        assert [run["readings"][0]["steps"] for run in found["runs"]] == [steps, steps][: 2 * bool(steps)]
        for run in found["runs"]:
            assert [each["step"] for each in run["checkpoints"]] == [each for each in (4, 8, 10) if each >= steps[0]]
    assert traced(capsys, unread.xxh3, work)["runs"] == []
    name = f"{manifest.source_name(span.source)}:{span.record}"
    assert traced(capsys, name, work)["documents"] == traced(capsys, span.xxh3, work)["documents"]
    assert f"record {span.record}" in said(capsys, name, work)


def test_a_checkpoint_and_an_export_lead_back_to_the_data(work, capsys):
    found = traced(capsys, work / "runs" / "a" / "checkpoints" / "step-00000004", work)
    assert [(run["step"], run["takes"][0]["rows"]) for run in found["runs"]] == [(4, 32)]
    assert [each["step"] for each in found["runs"][0]["checkpoints"]] == [4]
    found = traced(capsys, work / "models" / "a", work)
    assert found["kind"] == "export"
    assert [each["fingerprint"] for each in found["datasets"]] == [fingerprint_of(work / "data" / "mine")]
    assert [each["step"] for each in found["runs"][0]["checkpoints"]] == [10]
    assert str(work / "models" / "a") in said(capsys, work / "runs" / "a", work)


def test_a_run_that_moved_is_known_by_its_checkpoints(work, tmp_path, capsys):
    shutil.copytree(work / "runs" / "a", tmp_path / "elsewhere" / "run")
    shutil.copytree(work / "models" / "a", tmp_path / "model")
    lineage = json.loads((tmp_path / "model" / "lineage.json").read_text())
    (tmp_path / "model" / "lineage.json").write_text(json.dumps({**lineage, "run_dir": "/gone/a"}))
    found = traced(capsys, tmp_path / "model", tmp_path)
    assert found["runs"][0]["run_dir"] == str(tmp_path / "elsewhere" / "run")
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"an export of a \(/gone/a\), of steps 10; that run isn't there"):
        main(["trace", str(tmp_path / "model"), str(tmp_path)])


def test_a_run_that_began_with_an_export_is_among_what_came_of_the_data(work, tmp_path, capsys):
    run = tmp_path / "runs" / "tuned"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(f"run: {{name: tuned}}\nmodel: {{init_from: {work / 'models' / 'a'}}}\n")
    found = traced(capsys, fingerprint_of(work / "data" / "mine"), work, tmp_path)
    assert [each["name"] for each in found["runs"]][-1] == "tuned"
    assert traced(capsys, run, work)["runs"][1]["run_dir"] == str(work / "runs" / "a")


def test_data_that_are_gone_are_still_known_by_the_runs_that_read_them(work, tmp_path, capsys):
    fingerprint = fingerprint_of(work / "data" / "mine")
    shutil.copytree(work / "runs" / "a", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(work / "data" / "mine"), "/gone"))
    text = said(capsys, fingerprint[:12], tmp_path)
    assert f"data set    train {fingerprint[:12]} on this disk no more" in text
    assert "took        80 rows" in text


def test_what_is_unknown_is_one_line_that_says_where_it_looked(work, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for wanted in ("deadbeef", "0" * 32, "none.jsonl:3", "no such thing"):
        with pytest.raises(InputError) as error:
            main(["trace", wanted, str(tmp_path / "empty")])
        assert re.search(
            rf"{wanted}: no data set's .*looked below {tmp_path / 'empty'}: 0 data sets, 0 runs", str(error.value)
        )
        assert "\n" not in str(error.value)
    for arguments, match in (
        (["x", "/no/such"], "no such folder"),
        ([], "takes a fingerprint"),
        (["x", "format=y"], "text"),
    ):
        with pytest.raises(ConfigError, match=match):
            main(["trace", *arguments])


def test_broken_files_of_others_are_named_and_the_rest_is_traced(work, tmp_path, capsys):
    shutil.copytree(work / "runs" / "b", tmp_path / "runs" / "b")
    (tmp_path / "runs" / "b" / "history.json").write_text("{")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text('{"format": "x"}')
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "lineage.json").write_text("[]")
    fingerprint = fingerprint_of(work / "data" / "mine")
    found = traced(capsys, fingerprint, work, tmp_path)
    assert len(found["runs"]) == 2
    assert any("manifest.json" in problem for problem in found["problems"])
    assert "history.json" in said(capsys, tmp_path / "runs" / "b", work)
