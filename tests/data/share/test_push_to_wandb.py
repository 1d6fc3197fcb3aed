"""A pushed set in W&B's lineage: an artifact of references to where it lies."""

import pytest
import wandb

from tests.data.share.sets import fingerprint_of, make_output, push
from tests.data.text.servers import bucket_server
from tests.track import wandb_server


@pytest.fixture(autouse=True)
def own_wandb(monkeypatch, tmp_path):
    with wandb_server.own_wandb(monkeypatch, tmp_path):
        yield


def test_an_artifact_refers_to_the_files_in_the_store(tmp_path, monkeypatch, capsys):
    output = make_output(tmp_path)
    with wandb_server.reachable_server(monkeypatch) as server, bucket_server():
        import boto3

        boto3.client("s3").create_bucket(Bucket="shared")
        assert push(output, "s3://shared/sets", "track.wandb.project=trees") == 0
        assert push(output, tmp_path / "store", "data.push.wandb=false") == 0
        (artifact,) = server.artifacts
    fingerprint = fingerprint_of(output)
    address = f"s3://shared/sets/{fingerprint}"
    references = artifact.references()
    assert references["set.json"] == f"{address}/set.json"
    assert references["train/shard-000000.tar"] == f"{address}/train/shard-000000.tar"
    assert artifact.metadata["store"] == address
    assert list(artifact.metadata["licences"].values()) == [None, "CC0-1.0"]
    assert f"fingerprint-{fingerprint[:16]}" in artifact.aliases
    assert artifact.kind == "dataset"
    assert "artifact   data-custom" in capsys.readouterr().out


def test_nobody_who_did_not_ask_gets_an_artifact_and_offline_it_is_uploaded_later(tmp_path, capsys):
    output = make_output(tmp_path)
    assert push(output, tmp_path / "store") == 0
    assert not (output / "wandb").exists()
    assert push(output, tmp_path / "store", "data.push.wandb=true", "track.wandb.mode=offline") == 0
    assert "upload it with: wandb sync" in capsys.readouterr().out
    wandb.teardown()
    (folder,) = (output / "wandb").glob("offline-run-*")
    assert b"data-custom" in next(folder.glob("*.wandb")).read_bytes()
