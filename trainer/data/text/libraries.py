"""Libraries that only some sources need: imported when first needed, a missing one named in one line."""

from __future__ import annotations

import importlib
from typing import Any

from trainer.errors import InputError

EXTRA = "data"  # of banyan-train


def library(module: str, purpose: str, *, extra: str = EXTRA) -> Any:
    """The module of this name. InputError, which says what it is needed for, if it isn't installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise InputError(
            f"{purpose} needs the package {missing.partition('.')[0]}, which is missing: pip install "
            f'"banyan-train[{extra}]".'
        ) from error
