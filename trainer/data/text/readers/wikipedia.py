"""Dumps of Wikipedia and other wikis in XML: the text of each article, without its markup.

Pages of other namespaces and redirects are counted as left out. A page's last revision in the dump is its text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, cast

from trainer.data.text.file_names import escape
from trainer.data.text.filters import EMPTY, OTHER_FORMAT, TOO_DEEP
from trainer.data.text.libraries import library
from trainer.data.text.packed import Stream
from trainer.data.text.readers.reader import Reader
from trainer.data.text.readers.wiki_parts import content_of_part, wiki_parts
from trainer.data.text.reading import Account, Part, Reading
from trainer.data.text.records import Record, Rejected, checked_string, short, too_large
from trainer.data.text.sources import Source
from trainer.errors import InputError

MOST_OPEN = 100  # brackets and tags of a page that aren't closed: the parser looks for the end of each
OTHER_NAMESPACE = "pages of a wiki that are no articles"
REDIRECT = "redirects of a wiki"
CHANGE = "wiki markup to text by mwparserfromhell"
FILE, CATEGORY = "6", "14"  # namespaces
_BRACKET = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|</?[a-zA-Z]+[^<>]{0,300}?/?>|\[https?:|\]")
_SINGLE = frozenset(["br", "wbr", "hr", "meta", "link", "img", "li", "dt", "dd", "th", "td", "tr"])
_DROPPED_TAGS = ("ref", "references", "table", "gallery", "math", "timeline", "imagemap", "score", "syntaxhighlight")
_BLANK_LINES = re.compile(r"\n{3,}")


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The articles of a dump that begin in a part, in its order. InputError where it isn't XML, or is cut short."""
    etree = library("lxml.etree", "a Wikipedia dump")
    parser = library("mwparserfromhell", "a Wikipedia dump")
    account.records = 0
    media = {"file", "image", "category"}
    with content_of_part(source, part) as pieces:
        first = next(pieces, None)
        if first is None and not part.is_whole:
            return
        content = chain([first or b""], pieces)
        try:
            for element in _elements(etree, cast(BinaryIO, Stream(content))):
                if _local(element) == "namespace":
                    if element.get("key") in (FILE, CATEGORY) and element.text:
                        media.add(element.text.strip().lower())
                    continue
                document = _document(element, parser, media, source.reading, account.unused)
                if document is None:
                    continue
                account.records += 1
                if isinstance(document, bytes):
                    account.changed[CHANGE] += 1
                else:
                    document = document.at(short(_text(element, "title")))
                yield account.records - 1, document
        except etree.XMLSyntaxError as error:
            raise InputError(
                f"{escape(source.address)}: no whole XML ({str(error).splitlines()[0][:200]}); fetch it again."
            ) from error


def _elements(etree: Any, file: BinaryIO) -> Iterator[Any]:
    """Pages and namespaces as they end, each let go of when the next one is asked for."""
    options = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
    for _, element in etree.iterparse(file, tag=("{*}page", "{*}namespace"), **options):
        yield element
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(page: Any, name: str) -> str:
    """The text of the last element of this name in a page; "" if there is none."""
    found = "".join(element.text or "" for element in list(page.iter(f"{{*}}{name}"))[-1:])
    return found


def _document(
    page: Any, parser: Any, media: set[str], reading: Reading, unused: Counter[str]
) -> bytes | Rejected | None:
    """The text of an article; None for a page that is none, which is counted."""
    if _text(page, "ns").strip() not in ("", "0"):
        unused[OTHER_NAMESPACE] += 1
        return None
    if next(page.iter("{*}redirect"), None) is not None:
        unused[REDIRECT] += 1
        return None
    markup = _text(page, "text")
    if len(markup) > reading.most_bytes:
        return too_large(len(markup), reading.most_bytes)
    return without_markup(markup, parser, media, reading)


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
