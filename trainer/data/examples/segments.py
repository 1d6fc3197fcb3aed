"""data.format=segments: documents of text and codes, in the order in which they follow each other.

{"segments": [{"text": "A bell: "}, {"audio": [17, 3, 250]}, {"text": "."}]}, or a record with such fields, in their
order: {"text": "A bell: ", "audio": [17, 3, 250]}. Codes of several codebooks are (time, books): [[17, 900], [3, 12]].
An .npy file of whole numbers is a document of the one modality that there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from trainer.config.modalities import TEXT, Modality
from trainer.data.examples.faults import BAD_CODES, BAD_FIELDS, ExampleFault
from trainer.data.tokens.modalities import CodeRange
from trainer.data.tokens.tokenizer import Tokenizer

SEGMENTS = "segments"  # the format, and the field


def segments_of(record: Mapping[str, Any], field: str, modalities: Mapping[str, Modality]) -> dict[str, Any]:
    """A record as {"segments": [[name, text or numbers of tokens within the modality], …]}."""
    listed = record.get(SEGMENTS)
    if listed is None:
        given = [(name, value) for name, value in record.items() if name == field or name in modalities]
    elif isinstance(listed, list):
        given = [_only_entry(number, segment) for number, segment in enumerate(listed, start=1)]
    else:
        raise ExampleFault(BAD_FIELDS, "segments is no list")
    found: list[list[Any]] = []
    for number, (name, value) in enumerate(given, start=1):
        if name in (TEXT, field) and isinstance(value, str):
            found += [[TEXT, value]] if value else []
        elif name in modalities:
            found.append([name, code_numbers(value, name, modalities[name], number)])
        else:
            known = ", ".join((TEXT, *modalities))
            raise ExampleFault(BAD_FIELDS, f"segment {number}, {name[:40]!r}: neither a text nor a modality of {known}")
    if not found:
        names = ", ".join((field, *modalities))
        raise ExampleFault(BAD_FIELDS, f"neither segments nor any of the fields {names}")
    return {SEGMENTS: found}


def _only_entry(number: int, segment: Any) -> tuple[str, Any]:
    if not isinstance(segment, dict) or len(segment) != 1:
        raise ExampleFault(BAD_FIELDS, f'segment {number} isn\'t an object with one field, as {{"text": …}}')
    return next(iter(segment.items()))


def code_numbers(value: Any, name: str, modality: Modality, segment: int) -> list[int]:
    """Codes, (time,) or (time, books), as numbers of the modality's tokens, moment by moment."""
    try:
        codes = np.asarray(value)
    except ValueError:  # rows of several lengths
        codes = np.empty(0, object)
    place, shape = f"segment {segment}, {name}", "(time,)" if modality.books == 1 else f"(time, {modality.books})"
    if modality.books == 1 and codes.ndim == 2 and codes.shape[1] == 1:
        codes = codes[:, 0]
    fits = codes.ndim == 1 if modality.books == 1 else codes.ndim == 2 and codes.shape[1] == modality.books
    if codes.dtype.kind not in "iu" or not fits or not len(codes):
        raise ExampleFault(BAD_CODES, f"{place}: codes are whole numbers {shape}")
    outside = (codes < 0) | (codes >= modality.codes)
    if outside.any():
        raise ExampleFault(BAD_CODES, f"{place}: code {int(codes[outside][0])} is outside 0 to {modality.codes - 1}")
    offsets = np.arange(modality.books, dtype=np.int64) * modality.codes
    return [int(number) for number in (codes.reshape(len(codes), -1).astype(np.int64) + offsets).ravel()]


def array_record(array: np.ndarray, modalities: Mapping[str, Modality]) -> dict[str, Any] | ExampleFault:
    """An .npy file as a record."""
    if len(modalities) != 1:
        names = ", ".join(modalities)
        return ExampleFault(BAD_CODES, f"an .npy file doesn't say which modality it is of {names}; use JSON lines")
    return {next(iter(modalities)): array}


def render_segments(
    tokenizer: Tokenizer, ranges: Mapping[str, CodeRange], segments: Iterable[tuple[str, Any]]
) -> list[int]:
    """Ids of a document: texts, and stretches of codes between their begin and end tokens; and the end of text."""
    ids: list[int] = []
    for name, value in segments:
        if name == TEXT:
            ids += tokenizer.encode(value)
            continue
        place = ranges[name]
        ids += [place.begin, *(place.first + number for number in value), place.end]
    return [*ids, tokenizer.end_of_text_id]
