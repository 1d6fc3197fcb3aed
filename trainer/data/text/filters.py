"""Document → kept, or rejected for a counted reason."""

from __future__ import annotations

import codecs

import numpy as np

EMPTY = "empty"  # nothing but white space
UNDECODABLE = "undecodable"  # no UTF-8, or NUL bytes: binary
BAD_JSON = "bad_json"  # a line of JSON lines that is no JSON object
BAD_ROW = "bad_row"  # a row of a table whose quotes don't close, or with another number of fields than the first
BAD_RECORD = "bad_record"  # a record of a crawl, or group of rows, that is damaged or cut short
NO_TEXT_FIELD = "no_text_field"  # a record without a string in data.text_field
TOO_LARGE = "too_large"  # above data.most_document_bytes
TOO_DEEP = "too_deep"  # markup nested more deeply than any that people write
OTHER_FORMAT = "other_format"  # JSON, a table or markup where a text was expected
LINK = "link"  # a link or device in a tar, which is never followed
DUPLICATE = "duplicate"  # the same bytes as an earlier document

PIECE = 2**20  # bytes decoded at once: a large text needn't be in memory as characters, too


def rejection(text: bytes) -> str | None:
    """Why a document with these bytes can't be used; None if it can."""
    if undecodable_at(text) is not None:
        return UNDECODABLE
    begins_blank = not text[:256].decode("utf-8", "ignore").strip()
    return EMPTY if begins_blank and not text.decode("utf-8").strip() else None


def undecodable_at(text: bytes) -> int | None:
    """The first byte that is NUL or no UTF-8."""
    nul = text.find(b"\0")
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(text), PIECE):
        end = min(len(text), start + PIECE)
        try:
            decoder.decode(text[start:end], final=end == len(text))
        except UnicodeDecodeError as error:  # whose object begins with what was left of the piece before
            broken = end - len(error.object) + error.start
            return broken if nul < 0 else min(nul, broken)
    return None if nul < 0 else nul


def first_occurrences(hashes: np.ndarray) -> np.ndarray:
    """Which documents are the first with their hash: hashes (documents, 2) uint64 in source order → (documents,) bool.

    "First" is the lowest (source, record): it doesn't depend on who collected what when.
    """
    order, begins = _by_hash(hashes)
    is_first = np.zeros(len(hashes), dtype=bool)
    is_first[order[begins]] = True
    return is_first


def count_equal(hashes: np.ndarray) -> np.ndarray:
    """How many documents have each one's hash, itself included: hashes (documents, 2) uint64 → (documents,) int64."""
    order, begins = _by_hash(hashes)
    counts = np.empty(len(hashes), dtype=np.int64)
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(hashes)))
    counts[order] = np.repeat(lengths, lengths)
    return counts


def _by_hash(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by hash, equal ones as they come, and where in it another hash begins."""
    order = np.lexsort((np.arange(len(hashes)), hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    begins = np.ones(len(hashes), dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order, begins
