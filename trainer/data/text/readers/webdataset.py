"""Tars of text members, by WebDataset's rules: of each sample the member data.text_field, or else `txt`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from trainer.data.text.encodings import known_encoding, to_utf8
from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.filters import LINK, NO_TEXT_FIELD, OTHER_FORMAT
from trainer.data.text.formats import SNIFFED, is_code, is_html, is_json_lines, kind_by_name, unreadable
from trainer.data.text.readers import html
from trainer.data.text.readers.reader import Reader
from trainer.data.text.readers.text import what_else
from trainer.data.text.reading import UTF_8, Account, Part, Reading
from trainer.data.text.records import Record, RecordTally, Rejected, checked, first_few, short, too_large, without_mark
from trainer.data.text.sources import Source
from trainer.data.tokens.tars import Member, read_samples, texts_of
from trainer.errors import InputError

BESIDE = "members of tars beside the text of their sample"


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The texts of a tar. InputError if it has no file, or none with a text."""
    reading, tally, endings = source.reading, RecordTally(), set[str]()
    account.records = 0
    with open_file(source.address) as file:
        for number, member in enumerate(_members_of(source, file, endings, account.unused)):
            account.records = number + 1
            if isinstance(member, Member):
                document = _text_of_member(file, member, reading, account)
                document = document.at(short(member.name)) if isinstance(document, Rejected) else document
            else:
                document = member
            tally.add(document)
            yield number, document
    if not account.records:
        raise InputError(
            f"{escape(source.address)}: the archive holds no file; remove it from data.input, or write it again."
        )
    if not tally.with_text:
        known = first_few(f".{ending}" for ending in sorted(endings))
        field = reading.text_field
        problem = f"no sample has a text in a member .{field} or .txt ({tally}; members: {known or 'no ending'})"
        raise InputError(f"{escape(source.address)}: {problem}: {tally.mend}.")


def _members_of(source: Source, file: BinaryIO, endings: set[str], unused: Counter[str]) -> Iterator[Member | Rejected]:
    """The members that hold the texts; each sample and member without any comes as rejected."""
    for found in read_samples(source.address, file):
        if isinstance(found, Member):
            why = "a link or device" if found.link else "a name that WebDataset passes over"
            yield Rejected(LINK if found.link else NO_TEXT_FIELD, why).at(short(found.name))
            continue
        endings.update(found.members)
        texts = texts_of(source.address, found, source.reading.text_field)
        unused[BESIDE] += len(found.members) - max(1, len(texts))
        yield from texts
        if not texts:
            members = first_few(f".{ending}" for ending in found.members)
            yield Rejected(NO_TEXT_FIELD, f"has the members {members}").at(short(found.key))


def _text_of_member(file: BinaryIO, member: Member, reading: Reading, account: Account) -> bytes | Rejected:
    """The document of a member. It may be HTML, but no file of several documents."""
    if member.bytes > reading.most_bytes:
        return too_large(member.bytes, reading.most_bytes)
    place = file.tell()
    file.seek(member.offset)
    content = file.read(member.bytes)
    file.seek(place)
    return text_of_content(member.name, content, reading, account)


def text_of_content(name: str, content: bytes, reading: Reading, account: Account) -> bytes | Rejected:
    """The document of a member of this name."""
    head, is_all = content[:SNIFFED], len(content) <= SNIFFED
    kind = (kind_by_name(name) or ("text", ""))[0]
    if kind == "html" or (kind == "text" and not is_code(name) and is_html(head)):
        return html.read_page(content, reading, account)
    return _text(name, content, head, kind, reading, account, is_all=is_all)


def _text(
    name: str, content: bytes, head: bytes, kind: str, reading: Reading, account: Account, *, is_all: bool
) -> bytes | Rejected:
    encoding = known_encoding(head, reading)
    if encoding != UTF_8:
        content = b"".join(to_utf8(iter([content]), encoding))
        head = content[:SNIFFED]
    what = unreadable(name) or (f"of the format {kind}" if kind not in ("text", "json", "jsonl") else None)
    text_field = reading.text_field if is_code(name) else None
    if what is None and is_json_lines(head, whole=is_all, text_field=text_field):
        what = "JSON lines"
    what = what or what_else(name, head, replace(reading, format=None), is_all=is_all)
    if what is not None:
        return Rejected(OTHER_FORMAT, what)
    document = checked(without_mark(content))
    account.changed[f"decoded from {encoding}"] += encoding != UTF_8 and isinstance(document, bytes)
    return document


READER = Reader(read)
