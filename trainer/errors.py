"""Errors that a user can mend: one line that names the key, file or shard, and what to do. No traceback is shown."""

STOPPED = 85
"""Exit code: stopped after a checkpoint, before the end; the same command goes on."""


class BanyanError(Exception):
    """An expected failure. `exit_code` is the process's exit status (2: bad configuration or input)."""

    exit_code = 1


class ConfigError(BanyanError):
    """A configuration that can't be honoured."""

    exit_code = 2


class InputError(BanyanError):
    """Data, a tokenizer, a checkpoint or a file that is missing, broken or doesn't fit."""

    exit_code = 2


class StorageError(BanyanError):
    """The disk refused: full, read-only, gone."""


class HangError(BanyanError):
    """A run in which no rank gets on, or one gives no sign of life."""


class FoundError(BanyanError):
    """A check has found something: its result, and no failure that another try would mend."""


class NonFiniteError(BanyanError):
    """A loss or gradient norm that is NaN or infinite: the same again on another try."""

    exit_code = 3


def require(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless `condition`."""
    if not condition:
        raise ConfigError(message)


def divisors(number: int) -> list[int]:
    """What divides `number`, in ascending order: the values that would have been accepted."""
    return [d for d in range(1, number + 1) if number % d == 0]
