"""Document → kept, or rejected for a counted reason."""

from __future__ import annotations

import numpy as np

EMPTY = "empty"  # nothing but white space
UNDECODABLE = "undecodable"  # no UTF-8, or NUL bytes: binary
BAD_JSON = "bad_json"  # a line of a .jsonl file that is no JSON object
NO_TEXT_FIELD = "no_text_field"  # a record without a string in data.text_field
DUPLICATE = "duplicate"  # the same bytes as an earlier document
REASONS = (EMPTY, UNDECODABLE, BAD_JSON, NO_TEXT_FIELD, DUPLICATE)


def rejection(text: bytes) -> str | None:
    """Why a document with these bytes can't be used; None if it can."""
    if b"\0" in text:
        return UNDECODABLE
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        return UNDECODABLE
    return EMPTY if not decoded or decoded.isspace() else None


def first_occurrences(hashes: np.ndarray) -> np.ndarray:
    """Which documents are the first with their hash: hashes (documents, 2) uint64 in source order → (documents,) bool.

    "First" is the lowest (source, record): it doesn't depend on who collected what when.
    """
    order = np.lexsort((np.arange(len(hashes)), hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    begins = np.ones(len(hashes), dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    kept = np.zeros(len(hashes), dtype=bool)
    kept[order[begins]] = True
    return kept
