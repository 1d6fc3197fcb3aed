"""Fetches models from the Hugging Face Hub by `huggingface_hub`: safetensors, JSON and templates, never code.

    ~/.cache/banyan/hub/OWNER--NAME/COMMIT/            the files, once all are there, with the hashes that are stated
    ~/.cache/banyan/hub/OWNER--NAME/COMMIT-tokenizer/  the same without weights
    ~/.cache/banyan/hub/OWNER--NAME/pins.json          the commit that each branch or tag was when it was first asked

A name means the commit that it was first fetched at: ranks, requeued jobs and nodes without a network agree on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError, InputError
from trainer.machine.durable import make_folder, storage_errors, sync, write_json
from trainer.machine.hub_name import TOKENIZER_ONLY, HubName, parse_hub_name
from trainer.machine.json_file import Malformed, read_json

ENDPOINT = "HF_ENDPOINT"  # of another Hub than huggingface.co
PINS = "pins.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json", *TOKENIZER_FILES)
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
MOST_BYTES = 2**28  # of a file that holds no weights
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub states it: its hash is sha256 of a large one, else git's of a blob."""

    name: str
    bytes: int
    sha256: str | None
    git_hash: str | None


def pin(given: str, key: str, *, allowed: bool, tokenizer_only: bool = False) -> HubName:
    """The commit that a name means, with its files here; fetched, where they aren't, if that is `allowed`.

    ConfigError or InputError, each naming `key`, where that can't be.
    """
    name = parse_hub_name(given, key)
    commit = name.revision if name.is_pinned else _pins(name).get(name.revision)
    if commit is not None and _is_here(name.at(commit), tokenizer_only):
        return name.at(commit)
    if not allowed:
        raise ConfigError(
            f"{key}={given}: isn't here, and nothing is downloaded unless run.allow_download=true says so; or fetch "
            f"it, as by `hf download {name.repository} --local-dir DIR`, and give {key}=DIR."
        )
    with _explained(name, key), _hub() as hub:
        info = hub.HfApi(endpoint=os.environ.get(ENDPOINT)).model_info(
            name.repository, revision=commit or name.revision, files_metadata=True, timeout=TIMEOUT_S
        )
        pinned = name.at(str(info.sha))
        if not pinned.is_pinned or (commit is not None and pinned.revision != commit):
            raise InputError(f"{key}={given}: the Hub names no commit of it ({str(info.sha)[:60]!r}).")
        files = _chosen(name, [_stated(found) for found in info.siblings or ()], key, tokenizer_only)
        _fetch(hub, pinned, files, tokenizer_only)
    if not name.is_pinned:
        write_json(name.home / PINS, {**_pins(name), name.revision: pinned.revision})
    return pinned


def _is_here(name: HubName, tokenizer_only: bool) -> bool:
    return name.folder.is_dir() and (tokenizer_only or not name.folder.name.endswith(TOKENIZER_ONLY))


def _pins(name: HubName) -> dict[str, str]:
    try:
        found = read_json(name.home / PINS)
    except FileNotFoundError:
        return {}
    except Malformed as error:
        raise InputError(f"{name.home / PINS}: {error}; remove it.") from error
    commits = found.items() if isinstance(found, dict) else ()
    return {key: commit for key, commit in commits if isinstance(commit, str) and name.at(commit).is_pinned}


def _stated(found: Any) -> HubFile:
    lfs = getattr(found, "lfs", None)
    return HubFile(str(found.rfilename), int(found.size or 0), getattr(lfs, "sha256", None), found.blob_id)


def _chosen(name: HubName, files: list[HubFile], key: str, tokenizer_only: bool) -> list[HubFile]:
    """Of what is stated, the files that are read: those with usual names, beside each other."""
    wanted = TOKENIZER_FILES if tokenizer_only else MODEL_FILES
    chosen = [file for file in files if file.name in wanted or (not tokenizer_only and WEIGHTS.fullmatch(file.name))]
    needed = "tokenizer.json" if tokenizer_only else "config.json"
    if needed not in (file.name for file in chosen):
        raise InputError(f"{key}={name}: holds no {needed}; choose another model.")
    if not tokenizer_only and not any(WEIGHTS.fullmatch(file.name) for file in chosen):
        raise InputError(f"{key}={name}: holds no model.safetensors, and other weights aren't read; choose another.")
    large = next((f for f in chosen if not WEIGHTS.fullmatch(f.name) and f.bytes > MOST_BYTES), None)
    if large:
        raise InputError(f"{key}={name}: {large.name} of {large.bytes:,} bytes can't be what its name says.")
    return chosen


def _fetch(hub: Any, name: HubName, files: list[HubFile], tokenizer_only: bool) -> None:
    """Fetches files into the folder of their commit, which appears when they all have the hashes that were stated.

    Begun downloads go on where they were.
    """
    folder = name.home / f"{name.revision}{TOKENIZER_ONLY if tokenizer_only else ''}"
    attempt = folder.with_name(f"{folder.name}.partial")
    make_folder(attempt)
    size = sum(file.bytes for file in files)
    print(f"{name}: fetching {len(files)} files, {size:,} bytes, into {folder}", file=sys.stderr, flush=True)
    try:
        with storage_errors(attempt):
            for file in files:
                fetched = Path(
                    hub.hf_hub_download(
                        name.repository,
                        file.name,
                        revision=name.revision,
                        local_dir=attempt,
                        endpoint=os.environ.get(ENDPOINT),
                    )
                )
                _require_stated(fetched, file, name)
                sync(fetched)
            shutil.rmtree(attempt / ".cache", ignore_errors=True)
            os.rename(attempt, folder)
            sync(folder.parent)
    except Exception:
        if not folder.is_dir():  # another process of the same command may have been first
            raise


def _require_stated(path: Path, file: HubFile, name: HubName) -> None:
    """InputError for a file whose content isn't what the Hub stated."""
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{name}: {file.name} came as no file; remove {path}.")
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as opened:
        while content := opened.read(2**20):
            digest.update(content)
    if digest.hexdigest() != (file.sha256 or file.git_hash):
        path.unlink()
        raise InputError(f"{name}: {file.name} isn't what the Hub states (its hash differs); run the command again.")


@contextlib.contextmanager
def _hub() -> Iterator[Any]:
    """The library, silent. ConfigError where it isn't installed."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise ConfigError(
            "names on the Hugging Face Hub need the package huggingface_hub, which isn't installed: pip install "
            "'banyan-train[adapt]'."
        ) from None
    disable_progress_bars()
    yield huggingface_hub


@contextlib.contextmanager
def _explained(name: HubName, key: str) -> Iterator[None]:
    """Turns what the library raises into one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # all that it raises for requests, and for what isn't there
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        mend = {
            "GatedRepoError": "its owner must let you in: ask on its page, and log in by `hf auth login`",
            "RepositoryNotFoundError": "there is no such model, or you must log in by `hf auth login`",
            "RevisionNotFoundError": "there is no such branch, tag or commit",
        }.get(type(error).__name__, "is the Hub reached from here (HF_ENDPOINT, HF_HUB_OFFLINE)?")
        raise InputError(f"{key}={name}: {mend} ({lines[0][:200]})") from error
