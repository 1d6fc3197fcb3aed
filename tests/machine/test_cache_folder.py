"""Where builds are kept: at home, or in a private place where there is no home."""

import os
import stat
import tempfile

import pytest

from trainer.errors import StorageError
from trainer.machine import cache_folder as module
from trainer.machine.cache_folder import cache_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Folders for temporary files and for caches of the test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", "to be put back")
    return folder


def test_it_is_below_the_home_or_where_the_user_says(tmp_path):
    assert cache_folder({"HOME": str(tmp_path / "home")}, "x") == tmp_path / "home" / ".cache" / "banyan" / "x"
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}, "x") == tmp_path / "banyan" / "x"


def unwritable(tmp_path):
    file = tmp_path / "file"
    file.touch()
    return {"HOME": str(file)}


@pytest.mark.parametrize("environment", [unwritable, lambda _: {"HOME": "relative"}, lambda _: {}])
def test_without_a_home_it_is_private_and_children_find_it(tmp_path, temporary, monkeypatch, capsys, environment):
    monkeypatch.setattr(module.pwd, "getpwuid", {}.__getitem__)  # no such user
    folder = cache_folder(environment(tmp_path), "x")
    private = temporary / f"banyan-{os.getuid()}"
    assert folder.is_relative_to(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert "XDG_CACHE_HOME=DIR names another folder" in capsys.readouterr().err
    assert cache_folder(os.environ, "x") == folder
    assert capsys.readouterr().err == ""


def make_link(path):
    path.symlink_to("/")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(mode=0o755), make_link, lambda path: path.touch()])
def test_what_others_could_have_put_there_is_not_used(tmp_path, temporary, make):
    make(temporary / f"banyan-{os.getuid()}")
    with pytest.raises(StorageError, match="XDG_CACHE_HOME=DIR"):
        cache_folder(unwritable(tmp_path), "x")
