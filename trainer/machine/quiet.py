"""Silence for what torchao and torch say of themselves, which no one who runs Banyan can mend."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

LOGGERS = ("torchao", "torch.utils._pytree")


@contextlib.contextmanager
def quiet_torchao() -> Iterator[None]:
    """torchao, which transformers imports, warns of kernels that it ships for other machines; torch, of its enums."""
    levels = [(logger, logger.level) for logger in map(logging.getLogger, LOGGERS)]
    for logger, _ in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
