"""A cache folder on a node that several users share, and one on a disk that is full: real users, a real disk."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.corpus import make_dataset
from tests.data.remote.store import Store, serving

USERS = ((3001, 0o077), (3002, 0o000), (3003, 0o022))
READ = """
import json, os, sys
from trainer.config import Data
from trainer.data.tokens.datasets import open_training
from trainer.errors import BanyanError
import aiohttp, fsspec
fsspec.filesystem("http")
url, cache, user, umask = sys.argv[1:]
if int(user):
    os.umask(int(umask))
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
try:
    (dataset,) = open_training(Data(path=url, sequence_length=32, shuffle_shards=2, cache=cache))
    print(json.dumps([dataset.row(shard, 0).tolist() for shard in range(4)]))
except BanyanError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: other users, a disk of its own")


def start(url, cache, user=0, umask=0o022, *, before=()):
    command = [*before, sys.executable, "-c", READ, url, str(cache), str(user), str(umask)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "train", documents=120, shards=4)
    with serving(Store(folder)) as url:
        yield url


@pytest.fixture
def place():
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@as_root
def test_users_with_any_umask_share_a_folder_at_once_and_none_can_enter_another_s(store, place):
    started = [start(store, place / "cache", user, umask) for user, umask in USERS]
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({json.dumps(json.loads(out)) for out, _ in ended}) == 1
    assert (place / "cache").stat().st_mode & 0o7777 == 0o1777
    assert [path.name for path in place.iterdir()] == ["cache"]
    for user, _ in USERS:
        own = place / "cache" / f"user-{user}"
        assert (own.stat().st_uid, own.stat().st_mode & 0o777) == (user, 0o700)
        assert all(path.stat().st_uid == user for path in own.rglob("*"))
        assert len(list(own.rglob("*.tar"))) == 4


@as_root
def test_a_folder_of_another_user_that_isn_t_shared_is_refused_in_a_line(store, place):
    (place / "cache").mkdir(mode=0o755)
    process = start(store, place / "cache", 3001)
    _, said = process.communicate()
    assert process.returncode == 1
    assert "ConfigError: data.cache=" in said
    assert "Permission denied" in said
    assert "chmod 1777" in said.splitlines()[-1]


@as_root
def test_a_disk_that_is_full_says_so_and_what_is_there_stays(store, place):
    """Of 64 KiB, of which the cache would hold any number."""
    (place / "disk").mkdir()
    mount = f'mount -t tmpfs -o size=64k tmpfs {place}/disk && exec "$@"'
    process = start(store, place / "disk", before=("unshare", "--mount", "sh", "-c", mount, "sh"))
    _, said = process.communicate()
    assert process.returncode == 1
    line = said.splitlines()[-1]
    assert line.startswith(f"StorageError: {place}/disk/user-0: "), said
    assert "free some space, or give data.cache=DIR on another disk" in line
    assert line.endswith("then run the same command again; it continues.")
