"""W&B's lineage: prepared data → run → checkpoint, and the card with the data."""

import dataclasses
import json
import shutil

import pytest
import wandb

from tests.track import wandb_server
from trainer.checkpoint.complete import COMPLETE, STATE
from trainer.checkpoint.folders import folder_of
from trainer.config import Export, Pretrain, Wandb
from trainer.data.tokens.manifest import read_manifest
from trainer.machine.json_file import Malformed
from trainer.run.lineage import data_references, newest_complete
from trainer.run.recorded import record_evaluation, record_export
from trainer.track.lineage import DATA_FACT, HASHED_BYTES, data_artifact, read_references
from trainer.track.sinks.sink import Start
from trainer.track.tracker import Tracker
from trainer.verbs.report import main as report
from trainer.verbs.sync import main as sync


@pytest.fixture(autouse=True)
def own_wandb(monkeypatch, tmp_path):
    with wandb_server.own_wandb(monkeypatch, tmp_path):
        yield


@pytest.fixture
def server(monkeypatch):
    with wandb_server.reachable_server(monkeypatch) as server:
        yield server


@pytest.fixture
def data(corpus, tmp_path):
    return shutil.copytree(corpus, tmp_path / "data")


def facts_of(data):
    manifests = [read_manifest(data / split) for split in ("train", "validation")]
    return {DATA_FACT: [dataclasses.asdict(reference) for reference in data_references(manifests)]}


def record_run(tmp_path, facts, *, mode="auto"):
    """A run of a row that ends with a checkpoint; what was said on the way."""
    run_dir = tmp_path / "run"
    complete = run_dir / "checkpoints" / "step-00000007" / "COMPLETE"
    complete.parent.mkdir(parents=True)
    complete.write_text("{}")
    config = Pretrain()
    config.track.wandb = Wandb(mode=mode)
    tracker = Tracker.open(Start(run_dir, config, {}, facts, start_step=0, total_steps=7))
    tracker.log(step=7, tokens=70, metrics={"train/loss": 1.0})
    tracker.checkpoint(complete, 7)
    tracker.close(exit_code=0, summary={})
    return run_dir


def test_data_with_its_card_is_what_a_run_used_and_its_checkpoint_what_it_made(data, tmp_path, server, capsys):
    assert report([str(data)]) == 0
    (artifact,) = server.artifacts
    train = read_manifest(data / "train")
    assert (artifact.name, artifact.kind, artifact.committed) == ("data-train", "dataset", True)
    assert artifact.files["card.html"] == (data / "card.html").read_bytes()
    assert artifact.files["DATA_CARD.md"] == (data / "DATA_CARD.md").read_bytes()
    assert artifact.metadata["fingerprints"]["train/manifest.json"] == train.fingerprint
    assert set(artifact.aliases) == {"latest", f"fingerprint-{train.fingerprint[:16]}"}
    assert artifact.references()["train/manifest.json"] == f"file://{data}/train/manifest.json"
    assert [artifact.made_by] == list(server.runs)
    assert "artifact   data-train: http" in capsys.readouterr().out
    run_dir = record_run(tmp_path, facts_of(data))
    same, checkpoint = server.artifacts  # the run used the version that is there
    run_id = (run_dir / "wandb_id").read_text().strip()
    assert same.used_by == [run_id]
    assert (checkpoint.kind, checkpoint.made_by, checkpoint.metadata["step"]) == ("model", run_id, 7)
    assert set(checkpoint.aliases) == {"latest", "step-7"}
    assert server.runs[run_id].steps() == [7]


def test_a_server_that_refuses_artifacts_costs_a_line_and_no_row(data, tmp_path, server, monkeypatch, capsys):
    monkeypatch.setattr(server, "_ArtifactType", lambda variables: {})
    run_dir = record_run(tmp_path, facts_of(data))
    said = [line for line in capsys.readouterr().out.splitlines() if "lineage lacks" in line]
    assert len(said) == 2
    assert server.runs[(run_dir / "wandb_id").read_text().strip()].steps() == [7]


def test_offline_the_lineage_is_in_the_folder_that_is_uploaded_later(data, tmp_path, capsys):
    assert report([str(data), "track.wandb.mode=offline"]) == 0
    assert "upload it with: wandb sync" in capsys.readouterr().out
    wandb.teardown()  # as at the end of the process: it waits for the file to be whole
    (folder,) = (data / "wandb").glob("offline-run-*")
    assert b"data-train" in (next(folder.glob("*.wandb"))).read_bytes()


def test_sync_brings_the_lineage_of_a_run_that_trained_offline(data, tmp_path, server):
    run_dir = record_run(tmp_path, facts_of(data), mode="offline")
    (run_dir / "config.yaml").write_text("run: {name: a-run}\n")
    entry = {"bytes": 0, "xxh3_128": "0" * 32}
    (folder_of(run_dir, 7) / COMPLETE).write_text(json.dumps({"files": {STATE: entry}}))
    assert sync([str(run_dir)]) == 0
    run_id = (run_dir / "wandb_id").read_text().strip()
    assert [(each.kind, each.used_by, each.made_by) for each in server.artifacts] == [
        ("dataset", [run_id], None),
        ("model", [], run_id),
    ]


def test_nobody_who_did_not_ask_for_wandb_gets_any(data, capsys):
    assert report([str(data)]) == 0
    assert not (data / "wandb").exists()
    assert "W&B" not in capsys.readouterr().out


def test_a_card_that_is_a_link_is_not_uploaded(data, tmp_path):
    (tmp_path / "secret").write_text("key")
    (data / "card.html").symlink_to(tmp_path / "secret")
    (reference,) = read_references(facts_of(data))
    assert data_artifact(reference).files == ()


@pytest.mark.parametrize("path", ["../manifest.json", "/etc/passwd", "a/b/manifest.json", "x", "../../manifest.json"])
def test_facts_of_others_name_manifests_alone(data, path):
    facts = facts_of(data)
    facts[DATA_FACT][0]["fingerprints"] = {path: "0" * 64}
    with pytest.raises(Malformed):
        read_references(facts)
    assert read_references({"git_commit": "abc"}) == []


def test_the_newest_checkpoint_with_a_good_complete_is_named(tmp_path):
    for step in (3, 7, 9):
        folder_of(tmp_path, step).mkdir(parents=True)
    assert newest_complete(tmp_path) is None
    (folder_of(tmp_path, 9) / COMPLETE).write_text("broken")
    for step in (3, 7):
        entry = {"bytes": 0, "xxh3_128": "0" * 32}
        (folder_of(tmp_path, step) / COMPLETE).write_text(json.dumps({"files": {STATE: entry}}))
    assert newest_complete(tmp_path) == (folder_of(tmp_path, 7) / COMPLETE, 7)


@pytest.fixture
def checkpoint(tmp_path):
    """A run's checkpoint, whole by its COMPLETE."""
    run_dir = tmp_path / "run"
    folder = folder_of(run_dir, 7)
    folder.mkdir(parents=True)
    (folder / COMPLETE).write_text(json.dumps({"files": {STATE: {"bytes": 0, "xxh3_128": "0" * 32}}}))
    (run_dir / "config.yaml").write_text(
        "run: {name: a-run}\nmodel: {vocab_size: 300}\ntrack: {wandb: {project: trees}}\n"
    )
    return folder


def export_of(checkpoint, output, **settings):
    """An export as it is recorded: two files, of which one is too large to hash."""
    output.mkdir()
    (output / "config.json").write_text("{}")
    (output / "model.safetensors").write_bytes(bytes(HASHED_BYTES + 1))
    config = Export()
    config.export.upload = settings.get("upload", False)
    config.track.wandb = settings.get("wandb", Wandb())
    record_export([checkpoint], output, config)


def test_lineage_goes_on_from_a_checkpoint_to_its_evaluations_and_exports(checkpoint, tmp_path, server, capsys):
    results = tmp_path / "results.json"
    results.write_text("[1]")
    record_evaluation(checkpoint, results, {"validation/loss": 2.5}, Wandb())
    results.write_text("[2]")
    record_evaluation(checkpoint, results, {"words/acc": 0.5, "words/confusion_matrix": [[1]]}, Wandb())
    export_of(checkpoint, tmp_path / "out")
    run_id = (tmp_path / "run" / "wandb_id").read_text().strip()
    used, losses, tasks, export = server.artifacts  # the checkpoint is one, whoever uses it
    assert (used.name, used.made_by, used.metadata["step"]) == (f"checkpoint-{run_id}", None, 7)
    by_name = {run.display_name: name for name, run in server.runs.items()}
    evaluate, exported = by_name["evaluate a-run step 7"], by_name["export-hf a-run step 7"]
    assert {losses.made_by, tasks.made_by} == {evaluate}
    assert set(used.used_by) == {evaluate, exported}
    assert (losses.name, losses.kind) == (tasks.name, tasks.kind) == (f"evaluation-{run_id}", "evaluation")
    assert json.loads(losses.files["results.json"]) == [1]
    assert (losses.metadata["figures"], tasks.metadata["figures"]) == ({"validation/loss": 2.5}, {"words/acc": 0.5})
    assert (export.name, export.kind, export.made_by) == (f"export-{run_id}-hf", "model", exported)
    assert set(export.references()) == {"config.json", "model.safetensors"}
    assert export.files == {}  # weights stay where they are
    assert {run.project for run in server.runs.values()} == {"trees"}
    assert capsys.readouterr().out.count("lineage  ") == 3


def test_weights_are_uploaded_where_that_is_asked_for_alone(checkpoint, tmp_path, server):
    export_of(checkpoint, tmp_path / "out", upload=True)
    assert len(server.artifacts[-1].files["model.safetensors"]) == HASHED_BYTES + 1


def test_nobody_who_did_not_ask_for_wandb_gets_any_of_a_checkpoint(checkpoint, tmp_path, capsys):
    record_evaluation(checkpoint, tmp_path / "results.json", {"validation/loss": 2.5}, Wandb())
    export_of(checkpoint, tmp_path / "out")
    assert not (tmp_path / "run" / "lineage").exists()
    assert capsys.readouterr().out == ""


def test_offline_an_export_is_in_a_folder_that_is_uploaded_later(checkpoint, tmp_path, capsys):
    export_of(checkpoint, tmp_path / "out", wandb=Wandb(mode="offline"))
    assert "upload it with: wandb sync" in capsys.readouterr().out
    wandb.teardown()
    (folder,) = (tmp_path / "run" / "lineage").glob("export-hf-*/wandb/offline-run-*")
    assert b"export-" in next(folder.glob("*.wandb")).read_bytes()
