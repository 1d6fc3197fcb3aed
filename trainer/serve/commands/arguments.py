"""KEY=VALUE arguments of a command."""

from __future__ import annotations

from trainer.errors import ConfigError

USUAL_PORT = 8000


def read_arguments(command: str, known: tuple[str, ...], arguments: list[str]) -> dict[str, str]:
    """What was given. ConfigError for another key."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            raise ConfigError(f"banyan serve {command} {argument}: it takes {', '.join(known)}, each as KEY=VALUE.")
        given[key] = value
    return given


def port_of(given: dict[str, str]) -> int:
    """serve.port, or what a server has by default."""
    return number_of("serve.port", given) if "serve.port" in given else USUAL_PORT


def number_of(key: str, given: dict[str, str]) -> int:
    """A key's whole number. ConfigError for anything else."""
    if not given[key].isdecimal():
        raise ConfigError(f"{key}={given[key]}: must be a whole number.")
    return int(given[key])
