"""Values that an earlier prepare of the same input counted, so that other thresholds need no counting again.

Each document is read again, and must be the one that was counted: its hash is compared. Those that stay go through the
stages that change texts, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.config.clean import Clean
from trainer.data.clean.document import Verdict
from trainer.data.clean.record import read_item
from trainer.data.clean.stages import tables_of
from trainer.data.clean.thresholds import decide
from trainer.errors import InputError


class CountedBefore:
    """The documents of a work item as they were counted, one after the other."""

    def __init__(self, clean: Clean, item: int) -> None:
        self.output = Path(str(clean.signals_from)).expanduser()
        self._item = item
        self._rows, names, self.signals = read_item(self.output, item)
        self.names = names
        self._decisions = decide(tables_of(clean), names, self.signals)
        self._numbers: Iterator[int] = iter(range(len(self._rows)))

    def verdict(self, source: int, digest: int) -> Verdict | None:
        """Of the next document, whose xxh3-128 is `digest`. InputError if it wasn't counted as that."""
        number = next(self._numbers, None)
        row = None if number is None else self._rows[number]
        high, low = np.uint64(digest >> 64), np.uint64(digest & (2**64 - 1))
        if number is None or row is None or (row["source"], row["high"], row["low"]) != (source, high, low):
            raise self._other()
        return self._decisions.verdict(number)

    def end(self) -> None:
        """InputError if more documents were counted."""
        if next(self._numbers, None) is not None:
            raise self._other()

    def _other(self) -> InputError:
        return InputError(
            f"data.clean.signals_from={self.output}: it counted other documents (work item {self._item}); leave it "
            "out, and all are counted anew."
        )
