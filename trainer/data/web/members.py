"""What a sample's members hold: texts, JSON with a field, lines of JSON, arrays of tokens. At first, and by the index.

A member says by its ending how it is read, the first of these that a sample has: data.text_field, txt, json, jsonl,
npy; txt, json and npy also packed as .gz. JSON holds an object with the text, or a list of tokens, in data.text_field,
or is such a list itself, as open_lm and DCLM write them (`json.gz`, and `txt` in earlier versions). Nothing is
unpickled.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import numpy as np

from trainer.data.text.file_names import escape
from trainer.data.text.filters import BAD_JSON, BAD_RECORD, EMPTY, LINK, NO_TEXT_FIELD, OTHER_FORMAT
from trainer.data.text.readers.json_lines import object_of_line, text_of_object
from trainer.data.text.readers.webdataset import text_of_content
from trainer.data.text.reading import Account, Reading
from trainer.data.text.records import OTHER_FIELDS, Rejected, first_few, short, too_large, without_mark
from trainer.data.tokens.npy import read_header
from trainer.data.tokens.tars import Member, Sample, read_samples
from trainer.errors import InputError
from trainer.machine.json_file import Malformed

TEXT, JSON, LIST, NPY = range(4)  # a text; an object or list in JSON; a text that is a list of tokens; an array
PACKED = 8  # the same, as .gz
ARRAY = 16  # and the numbers themselves, of ARRAY_TYPES
ARRAY_TYPES = tuple(np.dtype(name) for name in ("u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"))
PICKLES = ("pth", "pt", "pickle", "pkl", "pyd", "ckpt")
ENDINGS = {"txt": TEXT, "json": JSON, "jsonl": JSON, "npy": NPY}
_TOKENS = re.compile(rb"\s*\[\s*\d+(?:\s*,\s*\d+){15,}\s*\]\s*")
_PIECE = 2**20


@dataclass(frozen=True)
class FoundDocument:
    """A document of a tar: where it is read from, how, and its text in UTF-8 or its tokens (tokens,) int64."""

    offset: int
    size: int
    kind: int
    content: bytes | np.ndarray


def read_members_of(
    file: BinaryIO, address: str, reading: Reading, account: Account
) -> Iterator[FoundDocument | Rejected]:
    """The records of a tar in order, of which those without a document come as rejected."""
    for found in read_samples(address, file):
        if isinstance(found, Member):
            why = "a link or device" if found.link else "a name that WebDataset passes over"
            yield Rejected(LINK if found.link else NO_TEXT_FIELD, why).at(short(found.name))
            continue
        chosen = _choose(address, found, reading.text_field)
        account.unused["members of tars beside the document of their sample"] += len(found.members) - bool(chosen)
        if chosen is None:
            yield _without_document(address, found)
            continue
        member, kind = chosen
        for record in _records(file, member, kind, reading):
            yield record.at(short(member.name)) if isinstance(record, Rejected) else record


def _choose(address: str, sample: Sample, text_field: str) -> tuple[Member, int] | None:
    """The member of a sample that holds its document, and what that is."""
    wanted = text_field.lower()
    for ending, kind in (*(((wanted, TEXT),) if wanted not in ENDINGS else ()), *ENDINGS.items()):
        if ending in sample.members:
            return sample.members[ending], kind
        if f"{ending}.gz" in sample.members:
            if ending == "jsonl":
                raise InputError(
                    f"{escape(address)}: {escape(sample.members['jsonl.gz'].name)}: lines of JSON that are packed "
                    'within a tar can\'t be read from any place: use "banyan prepare", or write them unpacked.'
                )
            return sample.members[f"{ending}.gz"], kind | PACKED
    dotted = [ending for ending in sample.members if ending.rpartition(".")[2] in (wanted, *ENDINGS)]
    if dotted:
        raise InputError(
            f"{escape(address)}: {escape(sample.members[dotted[0]].name)}: WebDataset takes all after the first dot "
            f"for the ending, .{escape(dotted[0])}: rename the members, or set data.text_field to this ending."
        )
    return None


def _without_document(address: str, sample: Sample) -> Rejected:
    """A sample without any member that can be read. InputError if that is a pickle."""
    pickled = next((ending for ending in sample.members if ending.rpartition(".")[2] in PICKLES), None)
    if pickled is not None:
        raise InputError(
            f"{escape(address)}: {escape(sample.members[pickled].name)}: a pickle (.{pickled}) may run any code when "
            "it is read, and isn't: write the tokens as .npy."
        )
    return Rejected(NO_TEXT_FIELD, f"has the members {first_few(f'.{e}' for e in sample.members)}").at(
        short(sample.key)
    )


def _records(file: BinaryIO, member: Member, kind: int, reading: Reading) -> Iterator[FoundDocument | Rejected]:
    """The records of a member; a line of JSON is one, and so is a row of an array."""
    place = file.tell()
    if member.name.lower().endswith(".jsonl"):
        yield from _lines(file, member, reading)
    elif kind == NPY:
        yield from _rows(file, member, reading)
    elif member.bytes > reading.most_bytes + OTHER_FIELDS:
        yield too_large(member.bytes, reading.most_bytes)
    else:
        file.seek(member.offset)
        raw = file.read(member.bytes)
        if kind == TEXT and _TOKENS.fullmatch(raw):
            kind = LIST
        yield _found(member.offset, raw, kind, reading, member.name)
    file.seek(place)


def _found(offset: int, raw: bytes, kind: int, reading: Reading, name: str) -> FoundDocument | Rejected:
    content = content_of_document(raw, kind, reading, name)
    return content if isinstance(content, Rejected) else FoundDocument(offset, len(raw), kind, content)


def _lines(file: BinaryIO, member: Member, reading: Reading) -> Iterator[FoundDocument | Rejected]:
    """Lines of JSON; blank ones are none."""
    most, offset, end = reading.most_bytes + OTHER_FIELDS, member.offset, member.offset + member.bytes
    while offset < end:
        file.seek(offset)
        raw, long = file.readline(min(most, end - offset)), 0
        if len(raw) == most and not raw.endswith(b"\n"):
            long = len(raw)
            while long < end - offset and not raw.endswith(b"\n"):
                raw = file.readline(min(_PIECE, end - offset - long))
                long += len(raw)
        if long:
            yield too_large(long, reading.most_bytes)
        elif raw.strip():
            yield _found(offset, raw, JSON, reading, member.name)
        elif not raw:
            raise InputError(f"{escape(member.name)}: cut short while it was read; run the same command again.")
        offset += long or len(raw)


def _rows(file: BinaryIO, member: Member, reading: Reading) -> Iterator[FoundDocument | Rejected]:
    """An array (tokens,), or (documents, tokens), of which each row is a document."""
    file.seek(member.offset)
    try:
        dtype, shape = read_header(file, member.bytes)
    except Malformed as error:
        yield Rejected(BAD_RECORD, f"{error}; pickled objects aren't read")
        return
    if dtype not in ARRAY_TYPES or len(shape) not in (1, 2):
        yield Rejected(BAD_RECORD, f"{len(shape)}-D {dtype}, where tokens are whole numbers in one or two dimensions")
        return
    size, offset = shape[-1] * dtype.itemsize, file.tell()
    kind = ARRAY + ARRAY_TYPES.index(dtype)
    for _ in range(shape[0] if len(shape) == 2 else 1):
        if size > reading.most_bytes:
            yield too_large(size, reading.most_bytes)
        else:
            file.seek(offset)
            yield _found(offset, file.read(size), kind, reading, member.name)
        offset += size


# ------------------------------------------------------------------------------------------------------- by the index


def content_of_document(raw: bytes, kind: int, reading: Reading, name: str = ".txt") -> bytes | np.ndarray | Rejected:
    """What is read as a document: its text in UTF-8, or its tokens (tokens,) int64; or why it holds none."""
    if kind >= ARRAY:
        return _as_tokens(np.frombuffer(raw, ARRAY_TYPES[kind - ARRAY]))
    if kind & PACKED:
        unpacked = _unpack(raw, reading.most_bytes + OTHER_FIELDS)
        if unpacked is None:
            return too_large(reading.most_bytes + OTHER_FIELDS, reading.most_bytes)
        if isinstance(unpacked, Rejected):
            return unpacked
        raw, kind, name = unpacked, kind & ~PACKED, name.removesuffix(".gz")
        if kind == TEXT and _TOKENS.fullmatch(raw):
            kind = LIST
    if kind == NPY:
        return _array(raw)
    if kind in (JSON, LIST):
        return _of_json(raw, reading)
    text = text_of_content(name, raw, reading, Account())
    if isinstance(text, bytes) and text != without_mark(raw):
        return Rejected(OTHER_FORMAT, "HTML or another encoding than UTF-8, which prepare reads")
    return text


def _of_json(raw: bytes, reading: Reading) -> bytes | np.ndarray | Rejected:
    """The text or the tokens in a JSON value."""
    value = object_of_line(without_mark(raw.strip()))
    if isinstance(value, Rejected):
        return value
    tokens = value if isinstance(value, list) else value.get(reading.text_field) if isinstance(value, dict) else None
    if isinstance(tokens, list):
        return _as_tokens(_numbers(tokens))
    if not isinstance(value, dict):
        return Rejected(BAD_JSON, "is neither a JSON object nor a list of tokens")
    return text_of_object(value, reading)


def _numbers(values: list[object]) -> np.ndarray | None:
    """A list of whole numbers as an array."""
    if not all(type(value) is int for value in values):
        return None
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return None


def _as_tokens(values: np.ndarray | None) -> np.ndarray | Rejected:
    if values is None:
        return Rejected(BAD_RECORD, "a list of something else than tokens, which are whole numbers")
    if not len(values):
        return Rejected(EMPTY, "no token")
    return values.astype(np.int64)


def _array(raw: bytes) -> np.ndarray | Rejected:
    """The tokens of a whole .npy."""
    file = BytesIO(raw)
    try:
        dtype, shape = read_header(file, len(raw))
    except Malformed as error:
        return Rejected(BAD_RECORD, f"{error}; pickled objects aren't read")
    if dtype not in ARRAY_TYPES or len(shape) != 1:
        return Rejected(BAD_RECORD, f"{len(shape)}-D {dtype}, where tokens are whole numbers in one dimension")
    return _as_tokens(np.frombuffer(file.read(), dtype))


def _unpack(raw: bytes, most: int) -> bytes | Rejected | None:
    """What is packed as gzip; None if it is more than `most`."""
    found, left = bytearray(), raw
    try:
        while left:
            unpacker = zlib.decompressobj(31)
            found += unpacker.decompress(left, most + 1 - len(found))
            if len(found) > most:
                return None
            if not unpacker.eof:
                return Rejected(BAD_RECORD, "packed as gzip, and cut short")
            left = unpacker.unused_data.lstrip(b"\0")
    except zlib.error as error:
        return Rejected(BAD_RECORD, f"no gzip ({error})")
    return bytes(found)
