"""Names on the Hugging Face Hub, hf://OWNER/NAME@REVISION, and where what was fetched of one lies.

A run's configuration names a commit in the place of a branch or tag, so that it means the same for ever. Nothing here
reaches a network: trainer/machine/hub.py does, where it is allowed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.errors import ConfigError
from trainer.machine.cache_folder import cache_folder

SCHEME = "hf://"
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"hf://(?P<owner>{_PART})/(?P<name>{_PART})(?:@(?P<revision>{_PART}(?:/{_PART})*))?")
_COMMIT = re.compile("[0-9a-f]{40}")
TOKENIZER_ONLY = "-tokenizer"  # ends the name of a folder without weights


@dataclass(frozen=True)
class HubName:
    """A model's name; `revision` is a branch, a tag or a commit."""

    owner: str
    name: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}@{self.revision}"

    @property
    def repository(self) -> str:
        """OWNER/NAME."""
        return f"{self.owner}/{self.name}"

    @property
    def is_pinned(self) -> bool:
        """Whether it names a commit."""
        return _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> HubName:
        """The same at a commit."""
        return replace(self, revision=commit)

    @property
    def home(self) -> Path:
        """The folder of all that was fetched of it."""
        return cache_folder(os.environ, "hub") / f"{self.owner}--{self.name}"

    @property
    def folder(self) -> Path:
        """The files of this commit: all of them, or where only those are here, the tokenizer's."""
        whole, tokenizer = self.home / self.revision, self.home / f"{self.revision}{TOKENIZER_ONLY}"
        return whole if whole.is_dir() or not tokenizer.is_dir() else tokenizer


def is_hub_name(text: str | None) -> bool:
    """Whether a value means the Hub, in the place of a folder."""
    return text is not None and text.startswith(SCHEME)


def parse_hub_name(text: str, key: str) -> HubName:
    """The name that `key` has. ConfigError if it is none."""
    found = _NAME.fullmatch(text)
    if found is None or ".." in text:
        raise ConfigError(f"{key}={text}: no name on the Hugging Face Hub; write hf://OWNER/NAME@REVISION.")
    return HubName(found["owner"], found["name"], found["revision"] or "main")


def local_folder(given: str | Path) -> Path:
    """The folder that a value means: itself, or that of what was fetched of a name on the Hub."""
    text = str(given)
    return parse_hub_name(text, "the name").folder if is_hub_name(text) else Path(text).expanduser()
