"""What kind of parameter a name says, for where shapes aren't at hand: ZeRO-3 hides them."""

from __future__ import annotations


def is_vector(name: str) -> bool:
    """Whether the parameter is a bias or a norm's gain."""
    return name.endswith(".bias") or "norm" in name.rsplit(".", 2)[-2]
