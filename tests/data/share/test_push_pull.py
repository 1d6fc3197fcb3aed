"""`banyan data push|pull|ls`: a set comes back as it was, whatever is killed, cut or broken on the way."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.corpus import make_dataset
from tests.data.remote.store import Store, serving
from tests.data.share.sets import copy_of, files_in, fingerprint_of, listed, make_output, pull, push
from tests.data.text.servers import bucket_server, served_folder
from tests.data.text.stores import cloud_storage, hub
from trainer.config import Data
from trainer.data.share import push as push_module
from trainer.data.share.describe_set import describe_set
from trainer.data.share.listing import HEAD
from trainer.data.share.set_store import open_set_store
from trainer.data.share.shared_set import FILE, PUSHING, read_shared_set
from trainer.data.text import remote
from trainer.data.tokens.datasets import open_training
from trainer.errors import ConfigError, InputError, StorageError
from trainer.verbs.data import main


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return make_output(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def place(output, tmp_path_factory):
    """The folder of the set, pushed into a folder."""
    store = tmp_path_factory.mktemp("store")
    assert push(output, store) == 0
    return store / fingerprint_of(output)


@pytest.fixture(scope="module")
def bucket():
    with bucket_server() as server:
        yield server


@pytest.fixture
def new_bucket(bucket):
    """A bucket that keeps every version of an object: what is sent again is seen."""
    import boto3

    client = boto3.client("s3")
    name = f"sets-{os.urandom(6).hex()}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return client, name


def versions_of(client, name):
    """How often each object was sent."""
    counts = {}
    for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
        for version in page.get("Versions", []):
            counts[version["Key"]] = counts.get(version["Key"], 0) + 1
    return counts


def line_of(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def banyan(*arguments):
    command = [sys.executable, "-m", "launch", "data", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# ------------------------------------------------------------------------------------------------------- round trips


def test_a_set_comes_back_from_a_folder_with_its_licences(output, place, tmp_path, capsys):
    assert pull(fingerprint_of(output)[:8], place.parent, tmp_path / "mine") == 0
    said = capsys.readouterr().out
    assert "plain.jsonl: not stated" in said
    assert "books.jsonl: CC0-1.0, in en" in said
    here, pulled = files_in(output), files_in(tmp_path / "mine")
    assert {name: content for name, content in pulled.items() if name in here} == here
    assert set(pulled) - set(here) == {"set.json", "LICENCES.md", "card.html", "DATA_CARD.md"}
    assert b"CC0-1.0" in pulled["LICENCES.md"]
    assert b"not stated" in pulled["LICENCES.md"]
    assert main(["verify", str(tmp_path / "mine")]) == 0
    assert pull(fingerprint_of(output), place.parent, tmp_path / "mine") == 0
    assert "up to date" in capsys.readouterr().out


def test_a_set_comes_back_from_a_bucket_and_is_sent_once(output, new_bucket, tmp_path, capsys):
    client, name = new_bucket
    assert push(output, f"s3://{name}/sets") == 0
    assert push(output, f"s3://{name}/sets") == 0
    assert "there already, whole" in capsys.readouterr().out
    counts = versions_of(client, name)
    assert set(counts.values()) == {1}
    assert pull(fingerprint_of(output)[:12], f"s3://{name}/sets", tmp_path / "mine") == 0
    here, pulled = files_in(output), files_in(tmp_path / "mine")
    assert {path: pulled[path] for path in here} == here
    (row,) = listed(f"s3://{name}/sets", capsys)
    assert (row["whole"], row["fingerprint"]) == (True, fingerprint_of(output))


def test_manifests_come_after_shards_and_set_json_at_the_end(output, tmp_path, monkeypatch):
    store = open_set_store(str(tmp_path), writes=True)
    written = []
    for name in ("put", "write"):
        original = getattr(store, name)

        def note(first, *rest, original=original, name=name):
            written.append(rest[0].path if name == "put" else first.partition("/")[2])
            return original(first, *rest)

        monkeypatch.setattr(store, name, note)
    push_module.push_set(describe_set(output), store, 4, lambda subject, what: None)
    assert written[0] == PUSHING
    assert written[-3:] == ["validation/manifest.json", "train/manifest.json", FILE]
    assert not any("manifest" in path for path in written[:-3])


def test_a_run_trains_on_a_set_where_it_was_pushed(output, place):
    def rows(path):
        (dataset,) = open_training(Data(path=str(path), sequence_length=32))
        return dataset.gather(np.zeros(5, int), np.arange(5))

    assert np.array_equal(rows(place), rows(output))


def test_one_split_is_a_set_too(output, tmp_path, capsys):
    assert push(output / "validation", tmp_path / "store") == 0
    (row,) = listed(tmp_path / "store", capsys)
    assert list(row["fingerprints"]) == ["manifest.json"]
    assert pull(row["fingerprint"][:6], tmp_path / "store", tmp_path / "mine") == 0
    assert (tmp_path / "mine" / "shard-000000.tar").is_file()


def test_a_server_of_files_gives_a_set_by_its_fingerprint(output, place, tmp_path):
    from http.server import SimpleHTTPRequestHandler

    with serving(Store(place.parent)) as url:  # which lists nothing
        assert pull(fingerprint_of(output), url, tmp_path / "whole") == 0
        with pytest.raises(InputError, match="isn't there"):
            pull(fingerprint_of(output)[:8], url, tmp_path / "short")
    with served_folder(place.parent, SimpleHTTPRequestHandler) as url:  # whose pages have links
        assert pull(fingerprint_of(output)[:8], url, tmp_path / "short") == 0
    assert files_in(tmp_path / "short") == files_in(tmp_path / "whole")


@pytest.mark.parametrize("standing_in", [cloud_storage, hub])
def test_a_set_comes_back_from_other_stores_by_its_first_digits(output, place, tmp_path, standing_in, capsys):
    with standing_in(place.parent) as url:
        (row,) = listed(url, capsys)
        assert row["whole"]
        assert pull(fingerprint_of(output)[:8], url, tmp_path / "mine") == 0
    assert files_in(tmp_path / "mine") == files_in(place)


# ------------------------------------------------------------------------------------------------------------- kills


def test_a_push_that_is_killed_is_never_seen_as_whole_and_sends_nothing_again(new_bucket, tmp_path, capsys):
    client, name = new_bucket
    make_dataset(tmp_path / "many", documents=120, shards=60)
    pushing = banyan("push", tmp_path / "many", f"data.store=s3://{name}", "data.workers=2")
    while (tars := sum(key.endswith(".tar") for key in versions_of(client, name))) < 5:
        assert pushing.poll() is None, pushing.communicate()[0]
        time.sleep(0.02)
    pushing.send_signal(signal.SIGKILL)
    assert pushing.wait() == -signal.SIGKILL
    pushing.stdout.close()
    assert tars < 60
    (row,) = listed(f"s3://{name}", capsys)
    assert not row["whole"]
    assert row["state"].startswith("partial: ")
    assert row["licences"] == [{"source": "texts", "licence": None, "language": None, "files": 1}]
    with pytest.raises(InputError, match="isn't whole"):
        pull(row["fingerprint"][:8], f"s3://{name}", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    sent = versions_of(client, name)
    assert push(tmp_path / "many", f"s3://{name}") == 0
    counts = versions_of(client, name)
    assert {key: counts[key] for key in sent if not key.endswith(PUSHING)} == {
        key: 1 for key in sent if not key.endswith(PUSHING)
    }
    assert pull(row["fingerprint"][:8], f"s3://{name}", tmp_path / "mine") == 0
    assert main(["verify", str(tmp_path / "mine")]) == 0


def test_a_pull_that_is_killed_goes_on_and_a_half_of_it_is_no_data(tmp_path):
    make_dataset(tmp_path / "many", documents=200, shards=20)
    assert push(tmp_path / "many", tmp_path / "sets") == 0
    fingerprint = describe_set(tmp_path / "many").described.fingerprint
    store = Store(tmp_path / "sets", latency_s=0.05)
    with serving(store) as url:
        pulling = banyan("pull", fingerprint, f"data.store={url}", f"data.output={tmp_path / 'mine'}", "data.workers=2")
        while len(list((tmp_path / "mine").glob("*.tar"))) < 4:
            assert pulling.poll() is None, pulling.communicate()[0]
            time.sleep(0.01)
        pulling.send_signal(signal.SIGKILL)
        assert pulling.wait() == -signal.SIGKILL
        pulling.stdout.close()
        came = {path.name: path.read_bytes() for path in (tmp_path / "mine").glob("*.tar")}
        assert 4 <= len(came) < 20
        assert all(content == (tmp_path / "many" / name).read_bytes() for name, content in came.items())
        with pytest.raises(InputError, match=r"manifest\.json"):
            open_training(Data(path=str(tmp_path / "mine"), sequence_length=32))
        store.asked.clear()
        assert pull(fingerprint, url, tmp_path / "mine") == 0
    assert not any(store.gets(f"/{name}") for name in came)
    pulled = files_in(tmp_path / "mine")
    assert {name: pulled[name] for name in files_in(tmp_path / "many")} == files_in(tmp_path / "many")
    assert not [path for path in (tmp_path / "mine").rglob("*") if path.name.startswith(".")]


# ------------------------------------------------------------------------------------------------- others, at once


def test_two_preparations_pushed_at_once_leave_one_of_them_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(push_module, "SETTLING_S", 0.01)
    first = make_output(tmp_path / "a")
    second = tmp_path / "b"
    shutil.copytree(first, second)
    for split in ("train", "validation"):  # the same tokens, prepared at another time
        path = second / split / "manifest.json"
        content = json.loads(path.read_text())
        content["prepared"]["time"] = "2020-01-01T00:00:00+00:00"
        path.write_text(json.dumps(content))
    locals_ = [describe_set(each) for each in (first, second)]
    assert locals_[0].described.fingerprint == locals_[1].described.fingerprint
    store = open_set_store(str(tmp_path / "store"), writes=True)
    fork = multiprocessing.get_context("fork")
    arguments = [(local, store, 2, lambda subject, what: None) for local in locals_ * 2]
    processes = [fork.Process(target=push_module.push_set, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    folder = tmp_path / "store" / locals_[0].described.fingerprint
    found = read_shared_set((folder / FILE).read_bytes(), "set.json")
    assert all(store.holds(folder.name, file) for file in found.files)
    assert not (folder / PUSHING).exists()
    assert not list(folder.rglob(".*"))


def test_the_same_data_with_other_licences_or_parts_are_refused(output, place, tmp_path):
    store = copy_of(place, tmp_path / "store").parent
    shutil.copytree(output, tmp_path / "other")
    path = tmp_path / "other" / "train" / "manifest.json"
    path.write_text(path.read_text().replace("CC0-1.0", "CC-BY-4.0"))
    with pytest.raises(InputError, match=r"other licences \(CC0-1\.0; not stated; here CC-BY-4\.0; not stated\)"):
        push(tmp_path / "other", store)
    with pytest.raises(InputError, match=r"but other parts"):
        push(output / "train", store)


def test_what_was_damaged_or_removed_in_a_store_is_sent_anew(output, place, tmp_path, capsys):
    broken = copy_of(place, tmp_path / "store")
    shard = broken / "train" / "shard-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:1500] + bytes([content[1500] ^ 1]) + content[1501:])
    (broken / "train" / "shard-000001.tar").unlink()
    (row,) = listed(broken.parent, capsys)
    assert row["state"] == "damaged: 1 files are missing or cut, as train/shard-000001.tar"
    assert push(output, broken.parent) == 0
    assert files_in(broken) == files_in(place)


# -------------------------------------------------------------------------------------------------------- refusals


def test_a_damaged_shard_here_is_not_pushed(output, tmp_path):
    broken = shutil.copytree(output, tmp_path / "out")
    shard = broken / "train" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(InputError, match=r"shard-000000\.tar: its content isn't what the manifest says"):
        push(broken, tmp_path / "store")
    assert not list((tmp_path / "store").rglob(FILE))
    shard.unlink()
    with pytest.raises(InputError, match=r"shard-000000\.tar: the shard is missing"):
        push(broken, tmp_path / "store")


def test_a_damaged_object_is_named_and_once_mended_the_pull_goes_on(output, place, tmp_path):
    broken = copy_of(place, tmp_path / "store")
    shard = broken / "train" / "shard-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:1500] + bytes([content[1500] ^ 1]) + content[1501:])
    with pytest.raises(InputError, match=r"shard-000001\.tar: its content isn't what the manifest says") as error:
        pull(fingerprint_of(output), broken.parent, tmp_path / "mine")
    line_of(error)
    assert not (tmp_path / "mine" / "train" / "shard-000001.tar").exists()
    assert (
        not list((tmp_path / "mine").rglob("manifest.json"))[1:]
        or not (tmp_path / "mine" / "train" / "manifest.json").exists()
    )
    shard.write_bytes(content)
    assert pull(fingerprint_of(output), broken.parent, tmp_path / "mine") == 0
    assert main(["verify", str(tmp_path / "mine")]) == 0


def test_a_store_that_is_away_or_denies_is_one_line(output, new_bucket, bucket, tmp_path, monkeypatch):
    _, name = new_bucket
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    with pytest.raises(InputError, match="specified bucket does not exist") as error:
        push(output, "s3://no-such-bucket-here/sets")
    line_of(error)
    with pytest.raises(InputError) as error:
        main(["ls", "s3://no-such-bucket-here/sets"])
    assert "isn't there" in line_of(error)
    from tests.data.text.servers import PlainHandler, served

    class Denying(PlainHandler):
        def do_PUT(self):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.close_connection = True

        def do_HEAD(self):
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

    with served(Denying) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        _forget_s3()
        with pytest.raises(InputError, match=r"pushing\.json: can't be written \(PermissionError") as error:
            push(output, f"s3://{name}/sets")
        line_of(error)
    with pytest.raises(InputError, match="tried 2 times") as error:  # the server is gone now
        push(output, f"s3://{name}/sets")
    line_of(error)
    monkeypatch.undo()
    _forget_s3()


def _forget_s3():
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(output, place, tmp_path):
    def limited(work, most):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(StorageError, match="run the same command again; it continues") as error:
                work()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return line_of(error)

    assert ".tar" in limited(lambda: pull(fingerprint_of(output), place.parent, tmp_path / "mine"), 25_000)
    assert pull(fingerprint_of(output), place.parent, tmp_path / "mine") == 0
    assert limited(lambda: push(output, tmp_path / "store"), 10_000)
    assert push(output, tmp_path / "store") == 0
    assert files_in(tmp_path / "store" / place.name) == files_in(place)


def test_names_that_fit_no_set_or_several_are_refused(output, place, tmp_path):
    store = place.parent
    with pytest.raises(InputError, match=f"deadbeef: no such set in .*; it has {place.name[:12]}"):
        pull("deadbeef", store, tmp_path / "mine")
    with pytest.raises(InputError, match=r"no such set in .*; no set is there"):
        pull("deadbeef", tmp_path / "nowhere", tmp_path / "mine")
    other = tmp_path / "store"
    copy_of(place, other)
    (other / (place.name[:60] + "0000")).mkdir()
    with pytest.raises(InputError, match="2 sets begin so"):
        pull(place.name[:8], other, tmp_path / "mine")
    for wrong in ("xyz", "ab", "a" * 65):
        with pytest.raises(ConfigError, match="64 hexadecimal digits"):
            pull(wrong, store, tmp_path / "mine")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else is there"):
        pull(place.name[:8], store, tmp_path / "used")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["push"], "data.path is not set"),
        (["push", "data.path=x"], "data.store is not set"),
        (["push", "data.path=x", "data.store=https://host/sets"], "sets are pushed to a folder, s3:// or gs://"),
        (["push", "data.path=x", "data.store=ftp://host/sets"], "give a folder, or one of s3://"),
        (["push", "data.path=x", "data.store=s3://id:key@host/sets"], "holds credentials"),
        (["push", "data.path=x", "data.store=y", "data.push.wandb=maybe"], "give true or false"),
        (["push", "data.path=x", "data.store=y", "data.workers=0"], "data.path|data.workers=0|x/manifest.json"),
        (["pull", "abcd", "data.store=x"], "data.output is not set"),
        (["pull", "abcd", "data.stor=x"], "data.stor: no such key"),
        (["pull", "abcd", "efgh"], "give fingerprint once"),
        (["ls"], "data.store is not set"),
        (["ls", "x", "format=xml"], "choose text or json"),
        (["ls", "--all"], "no such option"),
    ],
)
def test_wrong_usage_of_sharing_is_one_line(arguments, said):
    with pytest.raises((ConfigError, InputError), match=said) as error:
        main(arguments)
    line_of(error)


# ---------------------------------------------------------------------------------------------------------- listing


def test_a_listing_tells_of_whole_partial_and_unreadable_sets(output, place, tmp_path, capsys):
    store = tmp_path / "store"
    copy_of(place, store)
    (store / ("0" * 64)).mkdir()
    (store / ("0" * 64) / PUSHING).write_text(json.dumps({"format": "other"}))
    (store / ("1" * 64)).mkdir()
    capsys.readouterr()
    assert main(["ls", f"data.store={store}"]) == 2
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == [each for each in HEAD if each]
    assert "can't be read" in rows[0]
    assert "partial: neither set.json nor pushing.json" in rows[1]
    assert all(word in rows[2] for word in (place.name[:12], "80", "CC0-1.0, not stated", "en", "whole"))


def test_a_folder_of_prepared_data_is_listed_too(output, capsys):
    rows = listed(output.parent, capsys)
    assert [(row["address"], row["whole"]) for row in rows] == [(str(output), True)]
    assert [each["licence"] for each in rows[0]["licences"]] == [None, "CC0-1.0"]
    assert main(["ls", str(output.parent)]) == 0
    assert "custom (out)" in capsys.readouterr().out
