"""What torch's compiler needs on a GPU's node, and what is said where it isn't there."""

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from trainer.machine.c_compiler import compiler_problem


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with a compiler and Python's headers."""
    (tmp_path / "gcc").symlink_to(sys.executable)
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_nothing_is_missing_on_a_node_that_has_both(node):
    assert compiler_problem() is None


def test_a_missing_compiler_is_named_with_its_mend(node, monkeypatch):
    (node / "gcc").unlink()
    assert compiler_problem() == "Triton finds no C compiler (gcc or clang); install gcc on every node"
    monkeypatch.setenv("CC", "cc-7")
    assert "no C compiler (cc-7)" in compiler_problem()
    shutil.copy(sys.executable, node / "cc-7")
    assert compiler_problem() is None


def test_missing_headers_are_named_with_their_folder(node):
    Path(node / "Python.h").unlink()
    assert compiler_problem() == f"Triton finds no Python.h in {node}; install python3-dev on every node"
