"""What a file holds: by its name's ending, and where that doesn't say all, by how its content begins."""

from __future__ import annotations

import codecs
import json
import os
import re
from typing import Any

from trainer.data.text.packed import PACKINGS

_PROSE = ".txt .text .log .md .markdown .rst .adoc .org .tex .bib .srt .po"
_CODE = (
    ".css .scss .less "
    ".py .pyi .pyx .ipy .js .jsx .mjs .cjs .ts .tsx .vue .svelte .c .h .cc .cpp .cxx .hh .hpp .hxx .cu .cuh .m .mm "
    ".java .kt .kts .scala .groovy .clj .cs .fs .vb .go .rs .zig .nim .d .swift .dart .rb .php .pl .pm .lua .tcl "
    ".r .jl .hs .ml .mli .ex .exs .erl .el .lisp .scm .f .f90 .f95 .pas .ada .asm .s .v .sv .vhd .vhdl "
    ".sh .bash .zsh .fish .ps1 .bat .sql .graphql .proto .cmake .mk .gradle .toml .yaml .yml .ini .cfg .conf "
    ".diff .patch"
)
PROSE_ENDINGS = frozenset(_PROSE.split())
CODE_ENDINGS = frozenset(_CODE.split())
ENDINGS = {  # of the kinds whose name says what they are
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
    "tar": (".tar",),
    "warc": (".warc", ".wet"),
    "wikipedia": (".xml",),  # whose content must say so, too
    "html": (".html", ".htm", ".xhtml"),
    "epub": (".epub",),
}
FORMATS = ("text", *ENDINGS)
"""What data.format may name."""

RECORDS = "records"
"""In the place of a format: JSON lines or a table, of which each record is an example."""
CODES = "codes"
"""Likewise, and a record may be an array of codes in a file of its own."""
RECORD_FORMATS = ("jsonl", "csv", "tsv", "parquet", "arrow")

UNPACKED_ONLY = ("tar", "parquet", "arrow", "epub")  # read from many places, or packed within

_UNREADABLE = {
    "a table": ".psv .xls .xlsx .ods .orc .avro .sqlite .db .h5 .hdf5",
    "HTML": ".mhtml",
    "XML": ".xml .svg .rss .atom .xsl .fb2 .tei .rdf",
    "a laid-out document": ".pdf .ps .doc .docx .odt .rtf .ppt .pptx .odp .mobi .djvu .ipynb",
    "an archive": ".tar.gz .tgz .tar.zst .tar.bz2 .tar.xz .zip .7z .rar .lz4 .z .wat .arc",
}
UNREADABLE = {ending: what for what, endings in _UNREADABLE.items() for ending in endings.split()}
"""What can't be read as text, by ending: known, so that it is refused by name and never taken for prose."""

SNIFFED = 2**18  # bytes of a file's beginning by which its content is known
SNIFFED_LINES = 16
MARKUP = 2048  # bytes in which markup says what it is
_MAGIC = (
    (b"%PDF-", "a PDF"),
    (rb"{\rtf", "RTF"),
    (b"PK\x03\x04", "a zip archive (or .docx, .xlsx, .epub)"),
    (b"PAR1", "Parquet"),
)
_MARKUP = (("<?xml", "XML"), ("<!doctype html", "HTML"), ("<html", "HTML"), ("<svg", "SVG"), ("<rss", "RSS"))


def kind_by_name(name: str) -> tuple[str, str] | None:
    """What a file of this name holds (of FORMATS, or json) and its packing; None if the ending doesn't say it.

    A .json holds lines of it, or is refused; an .xml is None.
    """
    plain, packing = unpacked_name(name)
    ending = ending_of(plain)
    kind = next((kind for kind, endings in ENDINGS.items() if ending in endings and kind != "wikipedia"), None)
    if kind in UNPACKED_ONLY:
        return (kind, "") if kind and not packing else None
    if kind or ending == ".json":
        return kind or "json", packing
    return ("text", packing) if ending in PROSE_ENDINGS or ending in CODE_ENDINGS else None


def unreadable(name: str) -> str | None:
    """What a file of this name holds that can't be read as text; None if the name says no such thing."""
    name = name.lower()
    whole = next((what for ending, what in UNREADABLE.items() if name.endswith(ending)), None)
    return whole or UNREADABLE.get(ending_of(unpacked_name(name)[0]))


def unpacked_name(name: str) -> tuple[str, str]:
    """The name in lower case without the ending of its packing, and that ending."""
    name = name.lower()
    packing = next((packing for packing in PACKINGS if packing and name.endswith(packing)), "")
    return name.removesuffix(packing), packing


def ending_of(name: str) -> str:
    """The last ending of a name, with its dot, in lower case; "" if it has none."""
    return os.path.splitext(name.lower())[1]


def is_code(name: str) -> bool:
    """Whether the name says that its content is source code, which may look like anything."""
    return ending_of(unpacked_name(name)[0]) in CODE_ENDINGS


# ------------------------------------------------------------------------------------------------------- by content


def is_wikipedia(head: bytes) -> bool:
    """Whether content that begins with `head` is a dump of a wiki."""
    return b"<mediawiki" in head[:MARKUP]


def is_html(head: bytes) -> bool:
    """Whether content that begins with `head` is HTML, as XML or not."""
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()[:MARKUP].lower()
    if begin.startswith((b"<?xml", b"<!--")):
        begin = re.sub(rb"^(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*", b"", begin, flags=re.S)
    return begin.startswith((b"<!doctype html", b"<html"))


def has_column(head: bytes, separator: str, column: str) -> bool:
    """Whether content that begins with `head` is a table with a column of this name in its first row."""
    first = next(iter(_first_lines(head, whole=True)), b"")
    names = first.decode("utf-8", "surrogateescape").split(separator)
    return column in (name.strip(' "\r') for name in names)


def is_json_lines(head: bytes, *, whole: bool, text_field: str | None) -> bool:
    """Whether content that begins with `head` (or is it, if `whole`) is lines of JSON objects.

    Most of the first lines must be objects; with a `text_field`, one of them must hold a text there.
    """
    if b"{" not in head:
        return False
    lines = _first_lines(head, whole=whole)
    if not lines:  # the first line doesn't end in `head`
        key = b'[^"]*' if text_field is None else re.escape(text_field.encode("utf-8", "surrogateescape"))
        return bool(re.match(rb'\s*\{\s*"[^"]*"\s*:', head)) and bool(re.search(rb'"' + key + rb'"\s*:', head))
    records = [_parse(line) for line in lines]
    if 2 * sum(isinstance(record, dict) for record in records) <= len(lines):
        return False
    return text_field is None or any(
        isinstance(record, dict) and isinstance(record.get(_as_latin(text_field)), str) for record in records
    )


def other_format(head: bytes, *, whole: bool, text_field: str) -> str | None:
    """What content that begins with `head` is if it isn't text: JSON, markup, a table, an archive; else None."""
    head = head.removeprefix(codecs.BOM_UTF8)
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive whose name doesn't end in .tar"
    begin = head[:4096].lstrip().lower().decode("latin-1")
    for mark, what in _MARKUP:
        if begin.startswith(mark) and not begin[len(mark) : len(mark) + 1].isalnum():
            return what
    return _json_of_several_lines(head, whole=whole) or _table(head, text_field)


def _json_of_several_lines(head: bytes, *, whole: bool) -> str | None:
    """A JSON array or object that isn't one to a line, by its first element where it isn't `whole`."""
    if head.lstrip()[:1] not in (b"{", b"["):
        return None
    text = head.lstrip().decode("latin-1")
    if whole and isinstance(value := _parse(head), list):
        return "a JSON array" if any(isinstance(item, (str, list, dict)) for item in value) else None
    lines = _first_lines(head, whole=whole)
    if len(lines) > 1 and all(isinstance(_parse(line), list) for line in lines):
        return "lines of JSON arrays"
    value, rest = _first_value(text if text.startswith("{") else text[1:].lstrip())
    if text.startswith("["):
        if not whole and isinstance(value, (dict, list)) and rest.startswith((",", "]")):
            return "a JSON array"
        return "a JSON array" if re.match(r'\[\s*\{\s*"[^"]*"\s*:', text) else None
    if isinstance(value, dict) and value and (not rest or rest.startswith("{")):
        return "JSON that isn't one object to a line"
    return "JSON that isn't one object to a line" if re.match(r'\{\s*"[^"]*"\s*:', text) else None


def _table(head: bytes, text_field: str) -> str | None:
    """A table of values: its first line names columns, one of them the text's, and the second has as many."""
    lines = _first_lines(head, whole=True)[:2]
    for separator, what in ((b",", "a table of comma-separated values"), (b"\t", "a table of tab-separated values")):
        columns = [column.strip(b' "\r') for column in lines[0].split(separator)] if len(lines) == 2 else []
        if (
            len(columns) > 1
            and text_field.encode("utf-8", "surrogateescape") in columns
            and lines[1].count(separator) >= len(columns) - 1
        ):
            return what
    return None


def _first_lines(head: bytes, *, whole: bool) -> list[bytes]:
    """The first lines that aren't blank; of a `head` that isn't `whole`, those that end in it."""
    lines = head.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [line for line in (lines if whole else lines[:-1]) if line.strip()][:SNIFFED_LINES]


def _parse(text: bytes) -> Any:
    """A JSON value by its structure alone (text in any encoding that holds ASCII); None if it is none."""
    try:
        return json.loads(text.decode("latin-1"))
    except (ValueError, RecursionError):
        return None


def _first_value(text: str) -> tuple[Any, str]:
    """The JSON value at the start of `text`, and what follows it."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, ""
    return value, text[end : end + 100].lstrip()


def _as_latin(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
