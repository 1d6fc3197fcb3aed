"""Dumps of Wikipedia and other wikis in XML: the text of each article, without its markup.

Pages of other namespaces and redirects are counted as left out. A page's last revision in the dump is its text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from xml.parsers import expat

from trainer.data.text.file_names import escape
from trainer.data.text.filters import EMPTY, OTHER_FORMAT, TOO_DEEP, TOO_LARGE
from trainer.data.text.libraries import library
from trainer.data.text.readers.reader import Reader
from trainer.data.text.readers.wiki_parts import content_of_part, wiki_parts
from trainer.data.text.reading import Account, Part, Reading
from trainer.data.text.records import Record, Rejected, checked_string, short, too_large
from trainer.data.text.sources import Source
from trainer.errors import InputError

MOST_OPEN = 100  # brackets and tags of a page that aren't closed: the parser looks for the end of each
MOST_DEPTH = 256  # of nested elements of XML
MOST_TAG = 2**24  # bytes of one
MOST_MARKUP = 10_000_000  # characters of a page; MediaWiki's own bound is 2 MiB
MOST_NAME = 10_000  # characters of a title or namespace
PAGE, NAMESPACE = "page", "namespace"
TEXTS = ("title", "ns", "text", NAMESPACE)  # elements whose text is asked for
OTHER_NAMESPACE = "pages of a wiki that are no articles"
REDIRECT = "redirects of a wiki"
CHANGE = "wiki markup to text by mwparserfromhell"
FILE, CATEGORY = "6", "14"  # namespaces
_BRACKET = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|</?[a-zA-Z]+[^<>]{0,300}?/?>|\[https?:|\]")
_SINGLE = frozenset(["br", "wbr", "hr", "meta", "link", "img", "li", "dt", "dd", "th", "td", "tr"])
_DROPPED_TAGS = ("ref", "references", "table", "gallery", "math", "timeline", "imagemap", "score", "syntaxhighlight")
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass
class _Element:
    """The page or namespace being read: of each element that is asked for, the last one's text."""

    key: str = ""  # of a namespace
    texts: dict[str, list[str]] = field(default_factory=dict)
    characters: dict[str, int] = field(default_factory=dict)
    is_redirect: bool = False

    def text(self, name: str) -> str:
        """The text of the last element of this name; "" if there is none."""
        return "".join(self.texts.get(name, ()))


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The articles of a dump that begin in a part, in its order. InputError where it isn't XML, or is cut short."""
    parser = library("mwparserfromhell", "a Wikipedia dump")
    account.records = 0
    media = {"file", "image", "category"}
    with content_of_part(source, part) as pieces:
        first = next(pieces, None)
        if first is None and not part.is_whole:
            return
        try:
            for element in _elements(chain([first or b""], pieces)):
                if element.key:
                    if element.key in (FILE, CATEGORY) and element.text(NAMESPACE):
                        media.add(element.text(NAMESPACE).strip().lower())
                    continue
                document = _document(element, parser, media, source.reading, account.unused)
                if document is None:
                    continue
                account.records += 1
                if isinstance(document, bytes):
                    account.changed[CHANGE] += 1
                else:
                    document = document.at(short(element.text("title")))
                yield account.records - 1, document
        except (expat.ExpatError, _NoDump) as error:
            raise InputError(f"{escape(source.address)}: no whole XML ({error}); fetch it again.") from error


class _NoDump(Exception):
    """Why XML is no dump."""


def _elements(pieces: Iterable[bytes]) -> Iterator[_Element]:
    """Pages and namespaces as they end. Nothing else is held, however much stands between or within them."""
    dump = _Dump()
    read = 0
    for piece in pieces:
        dump.parser.Parse(piece)
        read += len(piece)
        yield from dump.ended
        dump.ended.clear()
        if read - dump.parser.CurrentByteIndex > MOST_TAG:  # which the parser holds until it ends
            raise _NoDump(f"a tag or comment of more than {MOST_TAG:,} bytes")
    dump.parser.Parse(b"", True)
    yield from dump.ended


class _Dump:
    """What the parser tells of a dump, gathered into the elements that have `ended`."""

    def __init__(self) -> None:
        self.ended: list[_Element] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._refuse  # no dump has one, and entities could grow without end
        self._element: _Element | None = None
        self._open: list[str] = []

    def _refuse(self, *_: object) -> None:
        raise _NoDump("a document type, which no dump has")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        self._open.append(name)
        if len(self._open) > MOST_DEPTH:
            raise _NoDump(f"elements nested more than {MOST_DEPTH} deep")
        if name == PAGE:
            self._element = _Element()
        elif name == NAMESPACE:
            self._element = _Element(attributes.get("key") or "none")
        if self._element is not None:
            self._element.is_redirect |= name == "redirect"
            if name in TEXTS:
                self._element.texts[name], self._element.characters[name] = [], 0

    def _characters(self, text: str) -> None:
        if self._element is None or self._open[-1] not in TEXTS:
            return
        name = self._open[-1]
        self._element.characters[name] += len(text)
        if self._element.characters[name] <= (MOST_MARKUP if name == "text" else MOST_NAME):
            self._element.texts[name].append(text)

    def _end(self, name: str) -> None:
        self._open.pop()
        if self._element is not None and name.rpartition(" ")[2] in (PAGE, NAMESPACE):
            self.ended.append(self._element)
            self._element = None


def _document(
    page: _Element, parser: Any, media: set[str], reading: Reading, unused: Counter[str]
) -> bytes | Rejected | None:
    """The text of an article; None for a page that is none, which is counted."""
    if page.text("ns").strip() not in ("", "0"):
        unused[OTHER_NAMESPACE] += 1
        return None
    if page.is_redirect:
        unused[REDIRECT] += 1
        return None
    size = page.characters.get("text", 0)
    if size > reading.most_bytes:
        return too_large(size, reading.most_bytes)
    if size > MOST_MARKUP:
        return Rejected(TOO_LARGE, f"{size:,} characters of wiki markup, {MOST_MARKUP:,} at most")
    return without_markup(page.text("text"), parser, media, reading)


def without_markup(markup: str, parser: Any, media: set[str], reading: Reading) -> bytes | Rejected:
    """The text of an article, without media, tables, references and templates. `media`: namespaces that are dropped."""
    markup = _without_comments(markup)
    if (count := still_open(markup)) > MOST_OPEN:
        return Rejected(TOO_DEEP, f"{count:,} brackets or tags that aren't closed")
    try:
        code = parser.parse(markup)
        _drop(code, parser.nodes, media)
        text = str(code.strip_code(keep_template_params=False))
    except (parser.parser.ParserError, RecursionError, ValueError) as error:
        return Rejected(OTHER_FORMAT, f"markup that can't be parsed ({type(error).__name__})")
    lines = (line.rstrip() for line in text.split("\n"))
    text = _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
    return checked_string(text, reading.most_bytes) if text else Rejected(EMPTY)


def _without_comments(markup: str) -> str:
    """The markup without comments, and the marks of those that aren't closed."""
    parts, place = [], 0
    while (begin := markup.find("<!--", place)) >= 0 and (end := markup.find("-->", begin)) >= 0:
        parts.append(markup[place:begin])
        place = end + 3
    return "".join((*parts, markup[place:].replace("<!--", "")))


def still_open(markup: str) -> int:
    """The brackets and tags that are open at once, at most; a kind that is closed too often counts from there on."""
    level, lowest, most = Counter[str](), Counter[str](), Counter[str]()
    for found in _BRACKET.findall(markup):
        kind, step = _kind_of(found)
        level[kind] += step
        lowest[kind] = min(lowest[kind], level[kind])
        most[kind] = max(most[kind], level[kind] - lowest[kind])
    return most.total()


def _kind_of(found: str) -> tuple[str, int]:
    """What kind of bracket or tag it is, and whether it opens (1), closes (-1) or neither."""
    if found[0] == "<":
        name = re.sub(r"[^a-z].*", "", found.strip("</").lower(), flags=re.DOTALL)
        single = name in _SINGLE or found.endswith("/>")
        return name, 0 if single else -1 if found.startswith("</") else 1
    pairs = {"}}": "{{", "]]": "[[", "|}": "{|", "]": "["}
    return (pairs[found], -1) if found in pairs else ("[" if found.startswith("[h") else found, 1)


def _drop(code: Any, nodes: Any, media: set[str]) -> None:
    """Takes out of a parsed article what strip_code leaves: captions of media, cells of tables, references."""
    for node in code.filter(recursive=True, matches=lambda node: _is_dropped(node, nodes, media)):
        try:
            code.remove(node)
        except ValueError:  # within another that was taken out
            continue


def _is_dropped(node: Any, nodes: Any, media: set[str]) -> bool:
    if isinstance(node, nodes.Wikilink):
        title = str(node.title).strip()
        return ":" in title and title.partition(":")[0].strip().lower() in media
    return isinstance(node, nodes.Tag) and str(node.tag).strip().lower() in _DROPPED_TAGS


READER = Reader(read, wiki_parts)
