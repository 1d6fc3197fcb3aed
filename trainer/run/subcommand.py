"""Plain arguments: commands of a family, `banyan data COMMAND …`; folders and settings, `banyan logs DIR KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from trainer.errors import ConfigError

Command = TypeVar("Command")


def choose_command(verb: str, commands: Mapping[str, Command], arguments: list[str], help_text: str) -> Command | None:
    """The command that the first argument names, or None if it asks for help, which is printed.

    ConfigError if there is none, or no such command.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        print(help_text, end="")
        return None
    known = ", ".join(commands)
    if not arguments:
        raise ConfigError(f"banyan {verb}: give a command: {known}.")
    if arguments[0] not in commands:
        raise ConfigError(f"banyan {verb} {arguments[0]}: no such command; there are {known}.")
    return commands[arguments[0]]


def split_arguments(arguments: list[str], defaults: Mapping[str, str], usage: str) -> tuple[list[str], dict[str, str]]:
    """Folders, and settings by key; ConfigError for a key that isn't among `defaults`, and for options."""
    folders, given = [], dict(defaults)
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if argument.startswith("-"):
            raise ConfigError(f"{argument}: no such option; usage: {usage}.")
        if sign and key in defaults:
            given[key] = value
        elif sign and key.isidentifier() and not Path(argument).exists():
            raise ConfigError(f"{key}: no such setting; there are {', '.join(defaults)}; usage: {usage}.")
        else:
            folders.append(argument)
    return folders, given
