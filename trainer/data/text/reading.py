"""How the documents of a source are read, which part of a file is asked for, and what is counted besides."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

UTF_8 = "utf-8"
AUTO = "auto"
ITEM_DOMAINS = 1000  # of a work item, that are kept: the most frequent
KEPT_DOMAINS = 100  # of them all
MOST_ADDRESS = 4096  # characters of an address that are looked at
URL_FIELD = "url"  # of a record: the address that its document is from
_HOST = re.compile(r"https?://(?:[^/?#@\s]{0,200}@)?([\w.-]{1,253})(?=[:/?#]|$)", re.I)
RESILIPARSE, TRAFILATURA = "resiliparse", "trafilatura"
HTML_READERS = (RESILIPARSE, TRAFILATURA)


@dataclass(frozen=True)
class Reading:
    """The settings that decide which documents a file holds: data.* or, where a source has its own, data.sources.*.

    `format` is one of readers.READERS, or None: by the file's name and content. `separator` cuts a text into documents.
    """

    text_field: str = "text"
    most_bytes: int = 2**27  # of a document
    format: str | None = None
    separator: bytes = b""
    encoding: str = UTF_8
    html: str = RESILIPARSE


@dataclass(frozen=True)
class Part:
    """What is asked for of a file: records that begin in [start, stop); `stop` is None for all up to the end.

    The unit is the format's own: a byte of the file, or a row group of Parquet or batch of Arrow. `bytes` is about how
    much of the file it is.
    """

    start: int = 0
    stop: int | None = None
    bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the file."""
        return self.start == 0 and self.stop is None


WHOLE = Part()
USUAL = Reading()


@dataclass
class Account:
    """What is counted while a source is read, besides its records.

    `unused` is what was left out within files, such as members of a tar beside the text; `changed` is what became of
    documents that weren't UTF-8 text; `domains` are those of documents whose records have an address, `url` is the last
    document's, if it has one. `records` is how many numbers of records the last part took: the numbers in the next part
    of the same file begin there.
    """

    unused: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    records: int = 0
    url: str = ""

    def note_address(self, url: object) -> None:
        """Notes a document's address, where its record has one, and counts its domain."""
        self.url = url.strip()[:MOST_ADDRESS].encode("utf-8", "replace").decode() if isinstance(url, str) else ""
        domain = domain_of(url)
        if domain:
            self.domains[domain] += 1


def most_frequent(counts: Counter[str], most: int) -> dict[str, int]:
    """The largest counts, largest first and then by name: the same whoever counted."""
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:most])


def domain_of(url: object) -> str:
    """The host of an address, without www.; nothing where it is no address of the web."""
    found = _HOST.match(url) if isinstance(url, str) else None
    return found[1].lower().removeprefix("www.") if found else ""
