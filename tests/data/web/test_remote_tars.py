"""Tars of others at a URL: brought into a small cache ahead of use, and the same rows as of a folder come out of it."""

import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.corpus import write_texts
from tests.data.remote.store import Store, serving
from tests.data.remote.test_remote_shards import ROWS, STEPS, loader_of, rows_of, settings, start_again, targets_of
from tests.data.web.wds import index_wds, write_wds
from trainer.config import Data, ValidationSet
from trainer.data.remote.fetcher import BadShard
from trainer.data.tokens.datasets import open_training, open_validation
from trainer.data.tokens.loader import IGNORED
from trainer.errors import ConfigError, InputError

SIZES = (1, 12, 1, 1, 20, 9, 30, 2, 24, 10, 14, 8)  # rows go on from tar to tar, and over some


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """Tars, and their index as if they lay at the URL "SITE"; and the rows that come of it."""
    folder = tmp_path_factory.mktemp("web")
    write_wds(folder / "tars", [{"txt": text} for text in write_texts(sum(SIZES), seed=3)], SIZES)
    with serving(Store(folder)) as url:
        index = index_wds(f"{url}/tars/{{000000..{len(SIZES) - 1:06d}}}.tar", folder)
        rows = rows_of(Data(path=str(index), sequence_length=32, shuffle_shards=2, cache_bytes=0))
        move(index, url, "SITE")
    return folder, rows


def move(index, old, new):
    """The same index of tars at another URL."""
    manifest = index / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new))


@dataclass
class Site:
    """A store with tars and an index of them, the index in a folder here, and the rows that come of it."""

    store: Store
    url: str
    index: Path
    rows: dict

    def tar(self, number):
        return self.store.folder / "tars" / f"{number:06d}.tar"


@pytest.fixture
def site(indexed, tmp_path):
    folder, rows = indexed
    shutil.copytree(folder, tmp_path / "site")
    store = Store(tmp_path / "site", latency_s=0.01, jitter_s=0.01)
    with serving(store) as url:
        move(tmp_path / "site" / "index", "SITE", url)
        shutil.copytree(tmp_path / "site" / "index", tmp_path / "index")
        yield Site(store, url, tmp_path / "index", rows)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def largest_pair(site):
    sizes = sorted(path.stat().st_size for path in (site.store.folder / "tars").iterdir())
    return sum(sizes[-2:])


def changed(path):
    """Of the same size and, by a server that says nothing of its state, the same state."""
    content = path.read_bytes()
    place = content.rindex(b".txt") + 600  # within a text
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@pytest.mark.parametrize("where", ["folder", "url"])
def test_rows_are_those_of_tars_read_by_ranges_out_of_a_cache_of_a_window_and_a_half(site, cache, where):
    path, most = site.index if where == "folder" else f"{site.url}/index", largest_pair(site) * 3 // 2
    asked, found, kept = settings(path, cache, cache_bytes=most), {}, []
    site.store.failing = 0.02
    for rank in range(2):
        found |= rows_of(asked, rank=rank, world_size=2)
        kept.append(sum(path.stat().st_size for path in cache.rglob("*.tar")))
    assert found == site.rows
    assert 0 < max(kept) <= most


def test_an_index_at_a_url_whose_tars_are_read_by_ranges(site, cache):
    assert rows_of(settings(f"{site.url}/index", cache, cache_bytes=0)) == site.rows
    assert not list(cache.rglob("*.tar"))
    with pytest.raises(ConfigError, match=r"data\.on_bad_shard=retry with data\.cache_bytes=0"):
        open_training(settings(site.index, cache, cache_bytes=0, on_bad_shard="retry"))


def test_a_tar_is_fetched_once_for_a_node_and_used_again_at_the_next_start(site, cache, monkeypatch):
    asked = settings(site.index, cache)
    found = rows_of(asked, rank=0, world_size=2) | rows_of(asked, rank=1, world_size=2)
    assert found == site.rows
    tars = {name for name in site.store.asked if name.endswith(".tar")}
    assert tars
    assert all(site.store.gets(name) == 1 for name in tars)
    site.store.asked.clear()
    damaged = sorted(cache.rglob("*.source.tar"))[3]
    changed(damaged)
    start_again(monkeypatch)
    assert rows_of(asked) == site.rows
    assert site.store.asked == [f"/tars/{damaged.name[6:12]}.tar"]


def test_a_start_on_an_index_at_a_url_asks_for_it_once(site, cache, monkeypatch):
    for _ in range(2):
        open_training(settings(f"{site.url}/index", cache))
    assert site.store.gets(".index") == len(SIZES)
    start_again(monkeypatch)
    used = sorted(cache.rglob("*.index"))
    used[2].write_bytes(used[2].read_bytes()[:-8])
    site.store.asked.clear()
    open_training(settings(f"{site.url}/index", cache))
    assert site.store.gets(".index") == site.store.gets(used[2].name) == 1


def bad_tar(index):
    """The number of a tar that the run needs, in which a row ends that began in the one before."""
    (dataset,) = open_training(Data(path=str(index), sequence_length=32, shuffle_shards=2, cache_bytes=0))
    places = loader_of(Data(path=str(index), sequence_length=32, shuffle_shards=2, cache_bytes=0)).order.locate(
        np.arange(STEPS * ROWS)
    )
    lasts = dataset.last_shards(places.shard, places.row)
    number = int(lasts[np.flatnonzero(lasts > places.shard)[-1]])
    touching = np.flatnonzero((places.shard <= number) & (lasts >= number))
    assert (places.shard[touching] < number).any()
    return number, touching.tolist(), places


@pytest.mark.parametrize(
    "how", ["changed", *(pytest.param(how, marks=pytest.mark.full) for how in ("missing", "short"))]
)
def test_a_bad_tar_stops_the_run_by_name(site, cache, how, capfd):
    tar = site.tar(4)
    changed(tar) if how == "changed" else tar.unlink() if how == "missing" else tar.write_bytes(tar.read_bytes()[:-512])
    (dataset,) = open_training(settings(site.index, cache))
    with pytest.raises(BadShard, match=r"tars/000004\.tar: .*tried 3 times; restore it as it was indexed") as error:
        dataset.row(4, 0)
    assert "\n" not in str(error.value)
    assert "data.on_bad_shard=retry" in str(error.value)
    assert not list(cache.rglob("shard-000004.source.tar"))
    assert len([line for line in capfd.readouterr().err.splitlines() if "000004.tar" in line]) == 1


def test_retry_waits_until_a_tar_is_mended_and_a_store_is_back(site, cache):
    number, _, _ = bad_tar(site.index)
    tar = site.tar(number)
    good = tar.read_bytes()
    changed(tar)

    def mend():
        time.sleep(2)
        site.store.away = True
        tar.write_bytes(good)
        time.sleep(2)
        site.store.away = False

    loader = loader_of(settings(site.index, cache, on_bad_shard="retry", shard_patience_s=0.5))
    thread = threading.Thread(target=mend)
    thread.start()
    assert targets_of(loader) == site.rows
    thread.join()


def test_skip_leaves_out_the_rows_that_a_tar_has_a_part_of_and_no_other(site, cache):
    number, bad, places = bad_tar(site.index)
    site.tar(number).unlink()
    found, listed = {}, []
    for rank in range(2):
        loader = loader_of(settings(site.index, cache, on_bad_shard="skip"), rank=rank, world_size=2)
        found |= targets_of(loader)
        listed += [row for row in loader.left_out.rows if row.position < STEPS * ROWS]
    assert sorted(row.position for row in listed) == bad
    assert {row.row for row in listed} == {int(places.row[at]) for at in bad}
    assert all(set(found[position]) == {IGNORED} for position in bad)
    assert all(found[position] == row for position, row in site.rows.items() if position not in bad)


def test_packing_by_documents_reads_no_tar_before_its_rows_are_needed(site, cache):
    (far,) = open_training(settings(site.index, cache, packing="whole"))
    (near,) = open_training(Data(path=str(site.index), sequence_length=32, packing="whole", cache_bytes=0))
    assert far.rows == near.rows
    assert not site.store.gets(".tar")
    found, expected = (each.gather_rows(np.array([6]), np.array([1])) for each in (far, near))
    assert np.array_equal(found.inputs, expected.inputs)


def test_a_mount_is_fetched_where_a_cache_is_given(tmp_path):
    write_wds(tmp_path / "tars", [{"txt": text} for text in write_texts(40, seed=3)], (1, 30, 9))
    index = index_wds(str(tmp_path / "tars"), tmp_path)
    rows = np.arange(20)
    cache = tmp_path / "cache"
    (near,) = open_training(Data(path=str(index), sequence_length=32))
    (far,) = open_training(settings(index, cache))
    assert np.array_equal(far.gather_in_file_order(rows), near.gather_in_file_order(rows))
    assert len(list(cache.rglob("*.source.tar"))) == 3
    os.utime(tmp_path / "tars" / "000001.tar", (1, 1))
    (far,) = open_training(settings(index, tmp_path / "another"))
    with pytest.raises(BadShard, match=r"000001\.tar: it has changed since it was indexed \(its time differs\)"):
        far.gather_in_file_order(rows)


def test_a_cache_below_a_window_and_the_index_is_refused(site, cache):
    with pytest.raises(InputError, match=r"data\.cache_bytes=1000: .*data\.shuffle_shards=2"):
        open_training(settings(f"{site.url}/index", cache, cache_bytes=1000))
    (validation,) = open_validation(
        settings(None, cache, cache_bytes=1000, validation={"own": ValidationSet(str(site.index))})
    )
    with pytest.raises(
        InputError, match=r"data\.cache_bytes=1000: .*/tars/000000\.tar alone has [\d,]+ bytes; raise it"
    ):
        validation.row(0, 0)


def test_an_index_at_a_url_that_is_another_is_refused(site, cache):
    index = site.store.folder / "index" / "shard-000001.index"
    content = index.read_bytes()
    index.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"/index/shard-000001\.index: its content isn't what the manifest says"):
        open_training(settings(f"{site.url}/index", cache))
