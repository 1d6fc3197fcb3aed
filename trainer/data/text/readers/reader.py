"""What a kind of source is to the rest: a function that reads documents, and perhaps one that finds where to cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trainer.data.text.reading import Account, Part
from trainer.data.text.records import Record
from trainer.data.text.sources import Source


@dataclass(frozen=True)
class Reader:
    """How sources of one kind are read.

    `read(source, part, account)` yields the records that begin in the part, numbered from the part's first one, and
    leaves in `account.records` how many numbers that took. `parts(source, wanted_bytes)` cuts a source into parts of
    about that size, in order: together they hold each record once; one part, WHOLE, where it can't be cut. Where
    `parts_take_a_pass`, it reads all of the source for that.
    """

    read: Callable[[Source, Part, Account], Iterator[Record]]
    parts: Callable[[Source, int], list[Part]] | None = None
    parts_take_a_pass: bool = False
