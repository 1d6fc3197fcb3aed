"""Addresses that a document may not come from: domains, whole addresses, and words in addresses, from lists.

The rules are those of RefinedWeb (Penedo et al. 2023, appendix G.1) as datatrove's URLFilter has them, in its order.
Otherwise: words are found in any case, a domain stands for all that is below it, and names beyond ASCII are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
import xxhash

from trainer.config.clean import UrlList
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.word_list import WordFinder, read_list

NAME = "url_list"
NO_ADDRESS = f"{NAME}: no address, not judged"
_BETWEEN_WORDS = re.compile("[^a-z0-9]+")
_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)", re.I)


class UrlListStage:
    """Rejects by a document's address; one without an address stays, and is counted."""

    @staticmethod
    def limits_of(settings: UrlList) -> Limits:
        """The rules, in order."""
        return Limits(
            NAME,
            {
                "domain": (None, 0),
                "url": (None, 0),
                "words": (None, 0),
                "soft_words": (None, settings.highest_soft_words),
                "substrings": (None, 0),
            },
        )

    def __init__(self, settings: UrlList) -> None:
        self._domains = ListedHashes(map(_as_host, _entries(settings.domains, "domains")))
        self._urls = ListedHashes(_entries(settings.urls, "urls"))
        self._words = {_joined(word) for word in _entries(settings.words, "words")} - {""}
        self._soft_words = {_joined(word) for word in _entries(settings.soft_words, "soft_words")} - {""}
        parts = {_joined(word) for word in _entries(settings.substrings, "substrings")} - {""}
        self._substrings = WordFinder(parts, f"data.clean.{NAME}.substrings") if parts else None
        self._limits = self.limits_of(settings)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The first list that has the address."""
        url = document.url
        if not url:
            document.changes[NO_ADDRESS] += 1
            return None
        lower = url.lower()
        domain = next((each for each in _domains_of(lower) if each in self._domains), "")
        words = set(_BETWEEN_WORDS.split(lower))
        hard, soft = sorted(self._words & words), sorted(self._soft_words & words)
        part = next(self._substrings.find(_joined(lower)), "") if self._substrings else ""
        found = {
            "domain": domain,
            "url": url if url in self._urls else "",
            "words": hard[0] if hard else "",
            "soft_words": ", ".join(soft),
            "substrings": part,
        }
        values = {rule: float(bool(detail)) for rule, detail in found.items()}
        values |= {"words": len(hard), "soft_words": len(soft)}
        verdict = self._limits.verdict(document, values)
        if verdict is None:
            return None
        return Verdict(verdict.rule, verdict.value, verdict.limit, found[verdict.rule.partition(".")[2]])


class ListedHashes:
    """A set of texts in 8 bytes each, since lists of domains have millions: their xxh3-64, sorted.

    A text that isn't listed is taken for one that is with a chance of 1 to 2^64 / entries.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._hashes = np.unique(np.fromiter(map(_hash, entries), np.uint64))

    def __contains__(self, entry: str) -> bool:
        if not len(self._hashes):
            return False
        hashed = np.uint64(_hash(entry))
        place = int(np.searchsorted(self._hashes, hashed))
        return place < len(self._hashes) and bool(self._hashes[place] == hashed)


def _hash(entry: str) -> int:
    return xxhash.xxh3_64_intdigest(entry.encode("utf-8", "surrogatepass"))


def _entries(files: list[str], key: str) -> Iterator[str]:
    """The entries of lists; a line that begins in # is a remark."""
    for file in files:
        yield from (entry for entry in read_list(file, f"data.clean.{NAME}.{key}") if not entry.startswith("#"))


def _joined(text: str) -> str:
    """A text's letters and digits in ASCII alone, in small letters."""
    return _BETWEEN_WORDS.sub("", text.lower())


def _as_host(entry: str) -> str:
    """A domain of a list, which may be written as *.example.com, or as an address."""
    found = _HOST.match(entry)
    return _in_ascii((found[1] if found else entry.partition("/")[0]).lower().removeprefix("*."))


def _in_ascii(host: str) -> str:
    """A host name as it is asked for: bücher.example is xn--bcher-kva.example."""
    host = host.strip(".")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _domains_of(url: str) -> Iterator[str]:
    """The host of an address and all domains that it is in: a.b.example, b.example, example."""
    found = _HOST.match(url)
    host = _in_ascii(found[1] if found else re.split("[/?#:]", url, maxsplit=1)[0])
    is_number = host.startswith("[") or host.replace(".", "").isdigit()
    yield host
    while not is_number and "." in host:
        host = host.partition(".")[2]
        yield host
