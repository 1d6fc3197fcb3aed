"""The settings of `banyan data push|pull|ls`, as they are typed."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.data.share.transfers import WORKERS
from trainer.errors import ConfigError

PUSH_USAGE = "banyan data push data.path=DIR data.store=FOLDER_OR_URL [data.push.wandb=true] [track.wandb.KEY=VALUE] …"
PULL_USAGE = "banyan data pull FINGERPRINT data.store=FOLDER_OR_URL data.output=DIR"
ALWAYS = ("data.path", "data.store", "data.output", "data.workers")
MOST_WORKERS = 64


@dataclass(frozen=True)
class ShareSettings:
    """What was typed, by key; `wandb` are the overrides of track.wandb."""

    typed: dict[str, str]
    wandb: tuple[str, ...]
    usage: str

    def require(self, key: str, what: str) -> str:
        """The value of a key that there must be. ConfigError says what it is."""
        if not self.typed.get(key):
            raise ConfigError(f"{key} is not set: name {what}; usage: {self.usage}.")
        return self.typed[key]

    def flag(self, key: str) -> bool | None:
        """A key that is true or false; None where it isn't given."""
        value = self.typed.get(key)
        if value not in (None, "true", "false"):
            raise ConfigError(f"{key}={value}: give true or false.")
        return None if value is None else value == "true"

    @property
    def workers(self) -> int:
        """Files that are copied at once."""
        value = self.typed.get("data.workers", str(WORKERS))
        if not value.isdecimal() or not 1 <= int(value) <= MOST_WORKERS:
            raise ConfigError(
                f"data.workers={value}: a whole number from 1 to {MOST_WORKERS}, files that are copied at once."
            )
        return int(value)


def read_share_settings(arguments: list[str], usage: str, *, words: str, keys: tuple[str, ...] = ()) -> ShareSettings:
    """Settings as they were typed; a word alone is the value of the key `words`. ConfigError where one isn't known."""
    known = (*ALWAYS, *keys)
    typed: dict[str, str] = {}
    wandb = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if argument.startswith("-"):
            raise ConfigError(f"{argument}: no such option; usage: {usage}.")
        if key.startswith("track.wandb.") and "track.wandb." in known:
            wandb.append(argument)
            continue
        if not sign or "/" in key:
            key, value = words, argument
        elif key not in known:
            raise ConfigError(f"{key}: no such key here; usage: {usage}.")
        if key in typed:
            raise ConfigError(f"{argument}: give {key} once; usage: {usage}.")
        typed[key] = value
    return ShareSettings(typed, tuple(wandb), usage)
