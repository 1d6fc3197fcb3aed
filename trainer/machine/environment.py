"""Text that came from an environment variable: used as it is, stored as it was written, `${oc.env:NAME}`."""

from __future__ import annotations

from typing import Any


class FromEnvironment(str):
    """A value into which `${oc.env:NAME}` was interpolated; `written` is what stands in the configuration.

    What code makes of it, such as the absolute path of a folder that it has opened, is plain text.
    """

    written: str

    def __new__(cls, value: str, written: str = "") -> FromEnvironment:
        """`value` as text, which remembers how it was `written`."""
        text = super().__new__(cls, value)
        text.written = written
        return text


def as_stored(value: Any) -> Any:
    """Plain values for a file or for W&B, in which what came from the environment stands as it was written."""
    if isinstance(value, FromEnvironment):
        return value.written
    if isinstance(value, dict):
        return {as_stored(key): as_stored(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_stored(item) for item in value]
    return value


def as_composable(value: Any) -> Any:
    """Plain values for a file that is composed again: only what came from the environment is interpolated there."""
    if isinstance(value, dict):
        return {key: as_composable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_composable(item) for item in value]
    if isinstance(value, str) and not isinstance(value, FromEnvironment):
        return value.replace("${", "\\${")
    return as_stored(value)
