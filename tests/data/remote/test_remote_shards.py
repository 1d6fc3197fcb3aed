"""Token shards at a URL: the same rows as of a folder, out of a small cache, whatever the store and others do."""

import functools
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import ThreadingHTTPServer

import numpy as np
import pytest

from tests.corpus import make_dataset
from tests.data.remote.store import Store, serving
from tests.data.text.servers import PlainHandler, bucket_server, fill_bucket, served_folder
from trainer.config import Data
from trainer.config.ramps import Ramps
from trainer.data.remote import fetcher, mirror, shard_cache
from trainer.data.remote.fetcher import BadShard
from trainer.data.tokens.datasets import look_ahead, open_training, open_validation
from trainer.data.tokens.history import History
from trainer.data.tokens.loader import IGNORED, Loader
from trainer.data.tokens.manifest import read_manifest, write_manifest
from trainer.data.tokens.mixture import mixture_in
from trainer.data.tokens.order import Order
from trainer.errors import ConfigError, InputError, StorageError
from trainer.objective.causal import Causal

LENGTH, ROWS, STEPS = 32, 8, 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "train", documents=240, shards=10)
    make_dataset(folder / "validation", documents=12, shards=1, seed=5)
    return folder


@pytest.fixture
def copy(data, tmp_path):
    shutil.copytree(data, tmp_path / "store")
    return tmp_path / "store"


def shard_bytes(folder):
    return sum(path.stat().st_size for path in (folder / "train").glob("*.tar"))


def settings(path, cache, **changes):
    return Data(path=str(path), sequence_length=LENGTH, shuffle_shards=2, cache=str(cache), **changes)


def loader_of(data, *, position=0, rank=0, world_size=1):
    """A loader, and the rows of STEPS steps."""
    sets = open_training(data)
    rows = [each.rows for each in sets]
    history = History([], []).go_on(step=0, position=0, ramps=Ramps(ROWS), rows=rows, mixture=mixture_in(data, rows))
    order = Order(rows, history.segments, seed=0, window=2)
    ahead = look_ahead(sets, order, start=position, stop=STEPS * ROWS)
    return Loader(sets, order, Ramps(ROWS), 2, rank, world_size, Causal(0, None).to_batch, 2, lookahead=ahead)


def targets_of(loader, *, position=0):
    """The targets of a rank's rows of all steps, by position."""
    found = {}
    for batch in loader.batches(position):
        found |= dict(zip(batch.positions.tolist(), batch.targets.tolist(), strict=True))
        if len(found) * loader.world_size >= STEPS * ROWS - position:
            return found


def rows_of(data, **where):
    return targets_of(loader_of(data, **where), **{key: where[key] for key in where if key == "position"})


@pytest.fixture(scope="module")
def local(data):
    return rows_of(Data(path=str(data), sequence_length=LENGTH, shuffle_shards=2))


def start_again(monkeypatch):
    """What another process would see: nothing was checked since it started."""
    now = time.time_ns()
    for module in (mirror, shard_cache):
        monkeypatch.setattr(module, "started_ns", lambda: now)
    mirror._find.cache_clear()
    fetcher.fetcher_of.cache_clear()


def cached_bytes(cache):
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())


def line_of(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------- same rows


@pytest.mark.parametrize("world_size", [1, 4])
def test_rows_are_those_of_the_folder_out_of_a_cache_of_a_third(data, local, tmp_path, world_size):
    store, most = Store(data, latency_s=0.01, jitter_s=0.01, failing=0.03), shard_bytes(data) // 3
    largest = []
    with serving(store) as url:
        asked = settings(url, tmp_path / "cache", cache_bytes=most)
        found = {}
        for rank in range(world_size):
            found |= rows_of(asked, rank=rank, world_size=world_size)
            largest.append(cached_bytes(tmp_path / "cache" / f"user-{os.getuid()}"))
    assert found == local
    manifests = 3 * 4096 + 3 * 5000  # those are beside the shards, and don't count until there are shards
    assert max(largest) <= most + manifests


def test_an_epoch_fetches_each_shard_once(data, tmp_path):
    store = Store(data)
    with serving(store) as url:
        loader = loader_of(settings(url, tmp_path / "cache"))
        targets_of(loader)
    shards = {name for name in store.asked if name.endswith(".tar")}
    assert shards
    assert all(store.gets(name) == 1 for name in shards)


def test_only_what_the_run_needs_is_fetched(data, tmp_path):
    store = Store(data)
    with serving(store) as url:
        here = settings(url, tmp_path / "cache")
        sets = open_training(here)
        rows = [sets[0].rows]
        history = History([], []).go_on(step=0, position=0, ramps=Ramps(1), rows=rows, mixture=mixture_in(here, rows))
        order = Order(rows, history.segments, seed=0, window=2)
        look_ahead(sets, order, start=0, stop=1)
        deadline = time.monotonic() + 10
        while not store.gets(".tar") and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
    assert store.gets(".tar") == 1
    assert not store.gets(".index")


def test_what_is_about_to_be_opened_is_let_go_of_by_nobody(data, tmp_path):
    """A thread that makes room would let another process remove a shard between the word that it is there and its
    opening."""
    with serving(Store(data)) as url:
        shards = open_training(settings(url, tmp_path / "cache"))[0].remote
        shard, fetcher = shards.cached[0], shards.fetcher
        path = fetcher.cache.folder / shard.name
        with fetcher.acquired(shard):
            fetcher.let_go(shard)
            fetcher._let_go_of_one()
            assert not shard_cache._remove_unless_held(path)
        fetcher.let_go(shard)
        assert shard_cache._remove_unless_held(path)
        assert not path.exists()


def test_a_mount_is_fetched_where_a_cache_is_given(data, local, tmp_path):
    assert rows_of(settings(data, tmp_path / "cache", cache_bytes=shard_bytes(data) // 2)) == local
    assert list((tmp_path / "cache").rglob("*.tar"))


def test_a_server_without_ranges_will_do(data, local, tmp_path):
    with served_folder(data, PlainHandler) as url:
        assert rows_of(settings(url, tmp_path / "cache")) == local


def test_a_bucket_and_its_validation_set(data, local, tmp_path):
    with bucket_server():
        asked = settings(fill_bucket(data), tmp_path / "cache")
        assert rows_of(asked) == local
        (validation,) = open_validation(asked)
        assert np.array_equal(
            validation.gather_in_file_order(np.arange(3)),
            open_validation(Data(path=str(data), sequence_length=LENGTH))[0].gather_in_file_order(np.arange(3)),
        )


# ------------------------------------------------------------------------------------------------ starts and others


def test_the_next_start_uses_what_is_there_and_checks_it(data, local, tmp_path, monkeypatch):
    store = Store(data)
    with serving(store) as url:
        asked = settings(url, tmp_path / "cache")
        assert rows_of(asked) == local
        used = sorted((tmp_path / "cache").rglob("*.tar"))
        store.asked.clear()
        damaged = used[0]
        content = bytearray(damaged.read_bytes())
        content[1500] ^= 1
        damaged.write_bytes(content)
        start_again(monkeypatch)
        assert rows_of(asked) == local
    assert store.gets(".tar") == store.gets(damaged.name) == 1


def test_a_kill_leaves_a_beginning_that_is_gone_on_with(copy, tmp_path):
    """A process is killed in the middle of a shard; the next fetches the rest alone, though its lock file is there."""
    name = "shard-000000.tar"
    whole = (copy / "train" / name).read_bytes()
    program = """
import sys, os, signal
import trainer.data.remote.origin as origin
from trainer.config import Data
origin.BLOCK = 1000
write = origin._write_all
def killed(file, piece):
    write(file, piece)
    if os.fstat(file.fileno()).st_size >= 5000:
        os.kill(os.getpid(), signal.SIGKILL)
origin._write_all = killed
import trainer.data.remote.fetcher
trainer.data.remote.fetcher.THREADS = 1
from trainer.data.tokens.datasets import open_training
path, cache = sys.argv[1:]
open_training(Data(path=path, sequence_length=32, shuffle_shards=2, cache=cache))[0].row(0, 0)
"""
    command = [sys.executable, "-c", program, str(copy), str(tmp_path / "cache")]
    assert subprocess.run(command, check=False).returncode == -9
    (partial,) = (tmp_path / "cache").rglob(f"{name}.*.partial")
    have = partial.stat().st_size
    assert 5000 <= have < len(whole)
    with open(copy / "train" / name, "r+b") as file:
        file.write(bytes(4000))  # what has come isn't asked for again
    dataset = open_training(settings(copy, tmp_path / "cache"))[0]
    dataset.row(0, 0)
    assert partial.with_name(name).read_bytes() == whole


def test_folders_are_the_users_own(data, tmp_path):
    cache = tmp_path / "cache"
    open_training(settings(data, cache))
    assert cache.stat().st_mode & 0o7777 == 0o1777
    own = cache / f"user-{os.getuid()}"
    assert own.stat().st_mode & 0o7777 == 0o700
    own.chmod(0o777)
    with pytest.raises(ConfigError, match=r"mode 0700") as error:
        open_training(settings(data, cache, cache_bytes=10**9))
    line_of(error)


def test_a_link_in_the_place_of_the_folder_is_refused(data, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cache" / f"user-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="you alone can enter"):
        open_training(settings(data, tmp_path / "cache"))


def test_a_cache_below_a_window_is_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"data\.cache_bytes=1000: .*data\.shuffle_shards=2") as error:
        open_training(settings(data, tmp_path / "cache", cache_bytes=1000))
    line_of(error)


def test_a_full_disk_says_so(data, tmp_path, monkeypatch):
    def full(file, piece):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.data.remote.origin._write_all", full)
    (dataset,) = open_training(settings(data, tmp_path / "cache", on_bad_shard="retry"))
    with pytest.raises(StorageError, match=r"the disk is full: free some space, or give data\.cache=DIR") as error:
        dataset.row(0, 0)
    line_of(error)


# ---------------------------------------------------------------------------------------------------- bad shards


def damage(path):
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["damaged", "missing", "short"])
def test_a_bad_shard_stops_the_run_by_name(copy, tmp_path, how, capfd):
    bad = copy / "train" / "shard-000003.tar"
    if how == "damaged":
        damage(bad)
    elif how == "short":
        bad.write_bytes(bad.read_bytes()[:-512])
    else:
        bad.unlink()
    with serving(Store(copy)) as url:
        (dataset,) = open_training(settings(url, tmp_path / "cache"))
        with pytest.raises(BadShard, match=r"train/shard-000003\.tar: .*tried 3 times; put it there") as error:
            dataset.row(3, 0)
    assert "data.on_bad_shard=retry" in line_of(error)
    assert not list((tmp_path / "cache").rglob("shard-000003.tar"))
    assert len([line for line in capfd.readouterr().err.splitlines() if "shard-000003.tar" in line]) == 1


def test_a_slow_store_is_bad_after_the_patience(data, tmp_path):
    store = Store(data)
    with serving(store) as url:
        (dataset,) = open_training(settings(url, tmp_path / "cache", shard_patience_s=1.0))
        store.latency_s = 30
        with pytest.raises(BadShard, match=r"shard-000001\.tar: not here after 1 s \(data\.shard_patience_s=1\)"):
            dataset.row(1, 0)


def test_retry_waits_until_a_shard_is_mended_and_a_store_is_back(copy, local, tmp_path):
    bad = copy / "train" / "shard-000004.tar"
    good = bad.read_bytes()
    damage(bad)
    store = Store(copy)

    def mend():
        time.sleep(2)
        store.away = True
        bad.write_bytes(good)
        time.sleep(2)
        store.away = False

    with serving(store) as url:
        loader = loader_of(settings(url, tmp_path / "cache", on_bad_shard="retry", shard_patience_s=0.5))
        thread = threading.Thread(target=mend)
        thread.start()
        assert targets_of(loader) == local
        thread.join()


def test_skip_leaves_out_the_rows_of_a_shard_and_no_other(copy, local, tmp_path):
    near = loader_of(Data(path=str(copy), sequence_length=LENGTH, shuffle_shards=2))
    places = near.order.locate(np.arange(STEPS * ROWS))
    number = int(places.shard[50])
    bad, name = np.flatnonzero(places.shard == number).tolist(), f"shard-{number:06d}.tar"
    (copy / "train" / name).unlink()
    with serving(Store(copy)) as url:
        found, listed = {}, []
        for rank in range(2):
            loader = loader_of(settings(url, tmp_path / "cache", on_bad_shard="skip"), rank=rank, world_size=2)
            found |= targets_of(loader)
            listed += [row for row in loader.left_out.rows if row.position < STEPS * ROWS]
    assert sorted(row.position for row in listed) == bad
    assert {(row.file, row.row) for row in listed} == {(name, int(places.row[at])) for at in bad}
    assert all(set(found[position]) == {IGNORED} for position in bad)
    assert all(found[position] == row for position, row in local.items() if position not in bad)


def test_skip_is_refused_where_rows_are_documents(data, tmp_path):
    with pytest.raises(InputError, match=r"data\.on_bad_shard=skip with data\.packing=whole"):
        open_training(settings(data, tmp_path / "cache", on_bad_shard="skip", packing="whole"))


def test_packing_by_documents_works(data, tmp_path):
    with serving(Store(data)) as url:
        (far,) = open_training(settings(url, tmp_path / "cache", packing="whole"))
        (near,) = open_training(Data(path=str(data), sequence_length=LENGTH, packing="whole"))
        assert far.rows == near.rows
        assert np.array_equal(
            far.gather_rows(np.array([2]), np.array([1])).inputs, near.gather_rows(np.array([2]), np.array([1])).inputs
        )


# --------------------------------------------------------------------------------------------------- hostile stores


def test_names_that_lead_elsewhere_are_refused(copy, tmp_path):
    path = copy / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["file"] = "../../shard-000000.tar"
    path.write_text(json.dumps(manifest))
    with serving(Store(copy)) as url, pytest.raises(InputError, match=r"manifest\.json: ") as error:
        open_training(settings(url, tmp_path / "cache"))
    assert url in line_of(error)


def test_a_tar_that_is_none_isnt_read(copy, tmp_path):
    """Its hash is right, but whoever wrote the manifest lies."""
    manifest = read_manifest(copy / "train")
    garbage = os.urandom(manifest.shards[0].bytes)
    (copy / "train" / "shard-000000.tar").write_bytes(garbage)
    first = replace(manifest.shards[0], sha256=hashlib.sha256(garbage).hexdigest())
    write_manifest(replace(manifest, shards=(first, *manifest.shards[1:])))
    with serving(Store(copy)) as url:
        (dataset,) = open_training(settings(url, tmp_path / "cache"))
        with pytest.raises(BadShard, match=r"shard-000000\.tar: it is no token shard"):
            dataset.row(0, 0)


def test_another_tokenizer_is_refused(copy, tmp_path):
    (copy / "train" / "tokenizer" / "tokenizer.json").write_text("{}")
    with serving(Store(copy)) as url, pytest.raises(InputError, match=r"tokenizer\.json: not the tokenizer"):
        open_training(settings(url, tmp_path / "cache"))


def test_a_url_without_data_is_refused(data, tmp_path):
    with serving(Store(data)) as url, pytest.raises(InputError, match=r"nothing: no manifest\.json there, nor in tr"):
        open_training(settings(f"{url}/nothing", tmp_path / "cache"))


OPEN = """
import sys
import trainer.data.text.remote as remote
remote.FIRST_WAIT_S = 0.01
from trainer.config import Data
from trainer.data.tokens.datasets import open_training
from trainer.errors import InputError
if sys.argv[3:]:
    sys.modules[sys.argv[3]] = None
try:
    open_training(Data(path=sys.argv[1], sequence_length=32, cache=sys.argv[2], shuffle_shards=2))[0].row(0, 0)
except InputError as error:
    sys.exit(str(error))
"""


def open_elsewhere(*arguments, **environment):
    """Opens data in another process."""
    command = [sys.executable, "-c", OPEN, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_without_the_extra_a_line_names_it(tmp_path):
    done = open_elsewhere("s3://bucket/data", tmp_path / "cache", "s3fs")
    assert done.returncode == 1
    assert done.stderr.startswith("s3://bucket/data/manifest.json: s3:// needs a package")
    assert 'pip install "banyan-train[s3]"' in done.stderr


def test_a_certificate_that_nobody_vouches_for_is_refused(data, tmp_path, monkeypatch):
    """And taken where SSL_CERT_FILE names it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(PlainHandler, directory=data))
    server.handle_error = lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://localhost:{server.server_port}"
    refused = open_elsewhere(url, tmp_path / "refused")
    taken = open_elsewhere(url, tmp_path / "taken", SSL_CERT_FILE=str(certificate))
    server.shutdown()
    server.server_close()
    assert refused.returncode == 1
    assert "certificate verify failed" in refused.stderr.splitlines()[-1]
    assert taken.returncode == 0, taken.stderr
