"""EPUB: a book is a document, the text of its chapters in the order in which they are read."""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.filters import EMPTY, OTHER_FORMAT
from trainer.data.text.libraries import library
from trainer.data.text.readers import html
from trainer.data.text.readers.reader import Reader
from trainer.data.text.reading import Account, Part, Reading
from trainer.data.text.records import Record, Rejected, checked, short, too_large
from trainer.data.text.sources import Source
from trainer.errors import InputError

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
MOST_INDEX = 2**24  # bytes of the lists of what a book holds
MOST_ENTRIES = 100_000
CHANGE = "books of EPUB to text"
CHAPTERS = ("application/xhtml+xml", "text/html")
_FONTS = re.compile(r"\.(otf|ttf|ttc|woff2?)$", re.I)


class _NoBook(Exception):
    """Why an archive is no book that can be read."""


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The book. InputError if it was named and can't be read."""
    account.records = 1
    document = _book(source)
    if isinstance(document, bytes):
        account.changed[CHANGE] += 1
    elif source.strict and document.reason == OTHER_FORMAT:
        raise InputError(
            f"{escape(source.address)}: can't be read as a book ({document}): leave it out of data.input, or convert "
            "it to text."
        )
    yield 0, document


def _book(source: Source) -> bytes | Rejected:
    with open_file(source.address) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if len(archive.filelist) > MOST_ENTRIES:
                    raise _NoBook(f"{len(archive.filelist):,} files in it")
                return _text(archive, source.reading)
        except _TooLarge as error:
            return too_large(error.size, source.reading.most_bytes)
        except (
            _NoBook,
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
            EOFError,
            ValueError,
            zlib.error,
        ) as error:
            return Rejected(OTHER_FORMAT, short(str(error) or type(error).__name__))


def _text(archive: zipfile.ZipFile, reading: Reading) -> bytes | Rejected:
    """The chapters' text, with a blank line between them."""
    chapters: list[bytes] = []
    left = reading.most_bytes
    for name in _chapters(archive):
        page = _member(archive, name, left)
        left -= len(page)
        decoded = html.decoded_page(page, reading, None)
        chapter = decoded if isinstance(decoded, Rejected) else html.text_of(decoded[1], reading, main=False)
        if isinstance(chapter, bytes):
            chapters.append(chapter)
        elif chapter.reason != EMPTY:
            return chapter.at(short(name))
    return checked(b"\n\n".join(chapters)) if chapters else Rejected(EMPTY)


def _chapters(archive: zipfile.ZipFile) -> Iterator[str]:
    """The names of the pages in reading order, without what is beside it, such as the table of contents."""
    if ENCRYPTION in archive.namelist() and _is_encrypted(_xml(archive, ENCRYPTION)):
        raise _NoBook("it is encrypted")
    root = next(_xml(archive, CONTAINER).iter("{*}rootfile"), None)
    package_name = root.get("full-path") if root is not None else None
    if not package_name:
        raise _NoBook(f"{CONTAINER} names no package")
    package = _xml(archive, package_name)
    items = {item.get("id"): item for item in package.iter("{*}item")}
    for reference in package.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None:
            raise _NoBook("its spine names a page that isn't in the manifest")
        beside = reference.get("linear") == "no" or "nav" in (item.get("properties") or "").split()
        if item.get("media-type") in CHAPTERS and not beside:
            yield posixpath.normpath(
                posixpath.join(posixpath.dirname(package_name), unquote((item.get("href") or "").partition("#")[0]))
            )


def _is_encrypted(encryption: Any) -> bool:
    """Whether more than fonts is encrypted."""
    names = [reference.get("URI") or "" for reference in encryption.iter("{*}CipherReference")]
    return any(not _FONTS.search(name) for name in names)


def _xml(archive: zipfile.ZipFile, name: str) -> Any:
    etree = library("lxml.etree", "EPUB")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(_member(archive, name, MOST_INDEX), parser)
    except (etree.XMLSyntaxError, _TooLarge) as error:
        raise _NoBook(f"{name} can't be read") from error


class _TooLarge(Exception):
    """More is in the archive than may be."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    """A file of the archive, whatever size it claims."""
    try:
        with archive.open(name) as member:
            content = member.read(most_bytes + 1)
    except KeyError as error:
        raise _NoBook(f"{name} is missing") from error
    if len(content) > most_bytes:
        raise _TooLarge(len(content))
    return content


READER = Reader(read)
