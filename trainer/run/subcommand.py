"""Verbs that are families of commands: `banyan data COMMAND …`, `banyan checkpoint COMMAND …`."""

from __future__ import annotations

from collections.abc import Mapping
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
