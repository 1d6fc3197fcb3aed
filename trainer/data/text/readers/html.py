"""HTML → text: by resiliparse or trafilatura, as data.html says. A page is decoded as it declares, never by a guess."""

from __future__ import annotations

import codecs
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from trainer.data.text.encodings import ENCODINGS, detected_encoding, marked_encoding
from trainer.data.text.filters import EMPTY, OTHER_FORMAT, TOO_DEEP, TOO_LARGE, UNDECODABLE
from trainer.data.text.libraries import library
from trainer.data.text.packed import whole
from trainer.data.text.readers.reader import Reader
from trainer.data.text.reading import AUTO, RESILIPARSE, UTF_8, Account, Part, Reading
from trainer.data.text.records import SAMPLE, Record, Rejected, checked, too_large
from trainer.data.text.sources import Source, content_of

MOST_DEPTH = 1000  # of nested elements: the time for text at a depth grows with it, and browsers stop at 512
MOST_ELEMENTS = (
    2**20
)  # of a page: each takes 600 bytes of memory and some microseconds; the largest real ones have 10^5
HEAD = 4096  # bytes in which a page declares its encoding
_META = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.I)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})""", re.I)
_TAG = re.compile(r"<(/?[a-zA-Z][a-zA-Z0-9]*)")
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
)
_CLOSED_BY_NEXT = frozenset(
    ["p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup", "colgroup", "rp", "rt"]
)
_OTHER_LABELS = {  # of ENCODINGS, which pages call by these names as well
    label: encoding
    for encoding, labels in {
        "gb18030": "x-gbk gb_2312 gb_2312-80 gb2312-80 chinese csgb2312 cp936 windows-936 ms936",
        "big5": "cn-big5 x-x-big5 csbig5 big-5",
        "big5-hkscs": "big5hkscs big5_hkscs",
        "shift_jis": "shift-jis sjis x-sjis ms_kanji ms932 csshiftjis windows-31j cp932",
        "euc-jp": "x-euc-jp x-euc eucjp euc_jp",
        "euc-kr": "euc_kr euckr ks_c_5601-1987 ks_c_5601-1989 ks_c_5601 ksc5601 korean windows-949 cp949 ms949",
    }.items()
    for label in labels.split()
}
_OTHER_CODECS = {  # which data.encoding doesn't name
    "iso-2022-jp": "iso2022_jp",
    "csiso2022jp": "iso2022_jp",
    "hz-gb-2312": "hz",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "unicode-1-1-utf-8": "utf-8-sig",
    "utf_8": "utf-8-sig",
}
_LEGACY = re.compile(r"(windows-?|cp|iso-?8859-|koi8-?|mac-?|tis-?)[\w-]{1,12}|x-mac-cyrillic")


def read_page(page: bytes, reading: Reading, account: Account, *, declared: str | None = None) -> bytes | Rejected:
    """The main text of a page; `declared` is the encoding of an HTTP header, which goes before the page's own."""
    if len(page) > reading.most_bytes:
        return too_large(len(page), reading.most_bytes)
    decoded = decoded_page(page, reading, declared)
    if isinstance(decoded, Rejected):
        return decoded
    encoding, text = decoded
    document = text_of(text, reading, main=True)
    if isinstance(document, bytes):
        account.changed[f"HTML to text by {reading.html}"] += 1
        if encoding != UTF_8:
            account.changed[f"decoded from {encoding}"] += 1
    return document


def text_of(page: str, reading: Reading, *, main: bool) -> bytes | Rejected:
    """The text of a decoded page: its `main` one, without menus and the like, or all of it."""
    if (elements := page.count("<") - page.count("</")) > MOST_ELEMENTS:
        return Rejected(TOO_LARGE, f"{elements:,} elements of HTML, {MOST_ELEMENTS:,} at most")
    if nesting(page) > MOST_DEPTH:
        return Rejected(TOO_DEEP, f"elements nested {nesting(page):,} deep")
    text = _by_resiliparse(page, main=main) if reading.html == RESILIPARSE or not main else _by_trafilatura(page)
    if isinstance(text, Rejected):
        return text
    text = text.strip()
    return checked(text.encode("utf-8", "replace")) if text else Rejected(EMPTY, "no text in the HTML")


def decoded_page(page: bytes, reading: Reading, declared: str | None) -> tuple[str, str] | Rejected:
    """The encoding of a page and its text: as data.encoding names it or as it declares, UTF-8, or guessed if asked."""
    if reading.encoding in (UTF_8, AUTO):
        candidates = [marked_encoding(page), declared, _declared_within(page), UTF_8]
    else:
        candidates = [marked_encoding(page), reading.encoding]
    for label in candidates:
        codec = None if label is None else codec_of(label)
        text = None if codec is None else _decoded(page, codec)
        if label is not None and text is not None:
            return label.lower(), text
    detected = detected_encoding(page[:SAMPLE]) if reading.encoding == AUTO else None
    text = None if detected is None else _decoded(page, ENCODINGS[detected])
    if detected is None or text is None:
        return Rejected(UNDECODABLE, "HTML", sample=page[:SAMPLE])
    return detected, text


def codec_of(label: str) -> str | None:
    """Python's codec for an encoding as pages call it; None for what is none, or no text's."""
    label = label.strip().lower()
    if label in ("utf8", "utf-8"):
        return "utf-8-sig"
    if label in ("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"):
        return "cp1252"  # as browsers have it
    known = ENCODINGS.get(_OTHER_LABELS.get(label, label))
    if known is not None:
        return known
    if label in _OTHER_CODECS:
        return _OTHER_CODECS[label]
    try:
        return codecs.lookup(label).name if _LEGACY.fullmatch(label) else None
    except LookupError:
        return None


def nesting(page: str) -> int:
    """How deeply elements are nested, at most: the sum over the elements' names of how deeply each is."""
    if page.count("<") - page.count("</") <= MOST_DEPTH:  # so few are opened at all
        return 0
    level, lowest, most = Counter[str](), Counter[str](), Counter[str]()
    for name in _TAG.findall(page):
        if name[0] == "/":
            name = name[1:].lower()
            level[name] -= 1
            lowest[name] = min(lowest[name], level[name])
        elif (name := name.lower()) not in _VOID:
            level[name] += 1
            most[name] = max(most[name], level[name] - lowest[name])
    return sum(count for name, count in most.items() if name not in _CLOSED_BY_NEXT)


def _declared_within(page: bytes) -> str | None:
    found = _META.search(page[:HEAD]) or _XML.search(page[:HEAD])
    label = found[1].decode("ascii", "replace") if found else None
    return UTF_8 if label and label.lower().startswith("utf-16") else label  # which couldn't be read as ASCII


def _decoded(page: bytes, codec: str) -> str | None:
    """The text, unless bytes are no character of the codec, or NUL, which is in no page."""
    try:
        text = page.decode(codec)
    except UnicodeError:
        return None
    return None if "\0" in text else text


def _by_resiliparse(page: str, *, main: bool) -> str | Rejected:
    parse = library("resiliparse.parse.html", "HTML")
    extract = library("resiliparse.extract.html2text", "HTML")
    try:
        tree = parse.HTMLTree.parse(page)
        if main:
            _lower(tree)
        text: str = extract.extract_plain_text(tree, main_content=main)
    except Exception as error:  # the library's exceptions have no common ancestor
        return Rejected(OTHER_FORMAT, f"HTML that resiliparse can't read ({type(error).__name__})")
    return text


def _lower(tree: object) -> None:
    """Moves a page's content three elements down: a list with fewer above it is taken for a menu, and dropped."""
    body = tree.body  # type: ignore[attr-defined]
    if body is None:
        return
    inner = tree.create_element("div")  # type: ignore[attr-defined]
    while (node := body.first_child) is not None:  # listing them all would take quadratic time
        inner.append_child(node)
    for _ in range(2):
        outer = tree.create_element("div")  # type: ignore[attr-defined]
        outer.append_child(inner)
        inner = outer
    body.append_child(inner)


def _by_trafilatura(page: str) -> str | Rejected:
    trafilatura = library("trafilatura", "data.html=trafilatura")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    try:
        text = trafilatura.extract(page, favor_precision=True, include_comments=False)
    except Exception as error:
        return Rejected(OTHER_FORMAT, f"HTML that trafilatura can't read ({type(error).__name__})")
    return text or ""


def read_whole(content: Iterable[bytes], reading: Reading, account: Account) -> bytes | Rejected:
    """The main text of a page that comes in pieces."""
    account.records = 1
    page = whole(content, reading.most_bytes)
    return too_large(page, reading.most_bytes) if isinstance(page, int) else read_page(page, reading, account)


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The page of an HTML file."""
    with content_of(source) as content:
        yield 0, read_whole(content, source.reading, account)


READER = Reader(read)
