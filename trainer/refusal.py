"""How a check refuses: one line that names the key and the mend."""

from __future__ import annotations

from trainer.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless `condition`."""
    if not condition:
        raise ConfigError(message)


def divisors(number: int) -> list[int]:
    """What divides `number`, in ascending order: the values that would have been accepted."""
    return [d for d in range(1, number + 1) if number % d == 0]
