"""Texts that aren't UTF-8: decoded where their encoding is known or named; else a guess at it, said to be one."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from itertools import chain

from trainer.data.text.libraries import library
from trainer.data.text.reading import AUTO, UTF_8, Reading

SAMPLE = 2**16  # bytes looked at
PLAUSIBLE = 0.6  # share of the bytes above 127 that a guess must explain

_HIGH = bytes(range(128, 256))
_MARKS = (  # UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

# Names as iconv has them, Python's codec, and what the encoding's usual characters look like in bytes. Where two
# explain a text as well as each other, the first is named.
_LEGACY = (
    ("SHIFT_JIS", "cp932", rb"[\x81-\x84\x88-\x97][\x40-\x7e\x80-\xfc]", rb"[\x82][\x9f-\xf1]|\x83[\x40-\x96]"),
    ("EUC-JP", "euc_jp", rb"[\xa1-\xa5\xb0-\xcf][\xa1-\xfe]", rb"\xa4[\xa1-\xf3]|\xa5[\xa1-\xf6]"),
    ("EUC-KR", "cp949", rb"[\xb0-\xc8][\xa1-\xfe]|\xa1[\xa1-\xfe]", rb"[\xb0-\xc8][\xa1-\xfe](?:[\x20-\x3f]|\Z)"),
    ("GB18030", "gb18030", rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]", rb"\xb5\xc4|\xa1\xa3|\xa3\xac|\xca\xc7|\xb2\xbb"),
    ("BIG5", "cp950", rb"[\xa1-\xa3\xa4-\xc6][\x40-\x7e\xa1-\xfe]", rb"\xaa\xba|\xa1\x43|\xa1\x41|\xac\x4f|\xa4\xa3"),
    ("WINDOWS-1251", "cp1251", rb"[\xa8\xb8\xc0-\xff]{2,}", rb"[\xe0\xe5\xe8\xee]"),
    ("KOI8-R", "koi8_r", rb"[\xa3\xb3\xc0-\xff]{2,}", rb"[\xc1\xc5\xc9\xcf]"),
    ("WINDOWS-1252", "cp1252", rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", rb"[A-Za-z][\x80-\xff][a-z]"),
)


ENCODINGS = {  # what data.encoding may name, and Python's codec: of a family, the one that knows most characters
    "utf-8": "utf-8",
    "utf-16": "utf-16",
    "gb18030": "gb18030",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "big5": "cp950",
    "big5-hkscs": "big5hkscs",
    "shift_jis": "cp932",
    "euc-jp": "euc_jp",
    "euc-kr": "cp949",
    "windows-1251": "cp1251",
    "koi8-r": "koi8_r",
    "windows-1252": "cp1252",
    "iso-8859-1": "latin-1",
}
_DETECTED = ("gb18030", "big5", "shift_jis", "euc-jp", "euc-kr", "windows-1251", "koi8-r", "windows-1252")
BROKEN = "\0"  # instead of bytes that are no character: NUL is in no document that is accepted


def known_encoding(head: bytes, reading: Reading) -> str:
    """The encoding of a text that begins with `head`: marked, named, found if that is asked for; else UTF-8."""
    marked = marked_encoding(head)
    if marked is not None:
        return marked
    if reading.encoding not in (UTF_8, AUTO):
        return reading.encoding
    found = detected_encoding(head) if reading.encoding == AUTO else None
    return found or UTF_8


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a byte order mark tells, if it is one that is read: UTF-8 or UTF-16."""
    if head.startswith(codecs.BOM_UTF8):
        return UTF_8
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return None
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def detected_encoding(head: bytes) -> str | None:
    """What a text that begins with `head` is in, among ENCODINGS; None if that is UTF-8, too, or can't be told.

    It is a guess, for data.encoding=auto alone: by the usual characters of each language, right far more often than
    charset-normalizer where English stands among Chinese, Japanese or Korean; else by that library.
    """
    if is_utf8_so_far(head):
        return None
    head = head[:SAMPLE]
    if (guess := _legacy(head)) is not None:
        return guess.lower()
    from_bytes = library("charset_normalizer", "data.encoding=auto").from_bytes
    codecs_ = {ENCODINGS[name]: name for name in _DETECTED}
    best = from_bytes(head, cp_isolation=["utf_16", *codecs_]).best()
    if best is None:
        return None
    return "utf-16" if best.encoding.startswith("utf_16") else codecs_.get(best.encoding)


def is_utf8_so_far(head: bytes) -> bool:
    """Whether bytes are UTF-8, but for a character that the end cuts."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def to_utf8(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Pieces of a text in one of ENCODINGS as UTF-8; bytes that are no character there become BROKEN.

    UTF-16 without a byte order mark is little-endian.
    """
    first = next(pieces, b"")
    little = encoding == "utf-16" and marked_encoding(first) is None
    decoder = codecs.getincrementaldecoder("utf-16-le" if little else ENCODINGS[encoding])(errors=_MARKING)
    for piece in chain([first], pieces):
        yield decoder.decode(piece).encode("utf-8")
    yield decoder.decode(b"", final=True).encode("utf-8")


def _mark_broken(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return BROKEN, error.end


_MARKING = "banyan-mark-broken"
codecs.register_error(_MARKING, _mark_broken)


def likely_encoding(text: bytes) -> str:
    """A phrase on what `text`, which isn't UTF-8, may be, with the command that converts it; "binary" if nothing."""
    text = text[:SAMPLE]
    for mark, name in _MARKS:
        if text.startswith(mark):
            return f"{name} by its byte order mark; iconv -f {name} -t UTF-8"
    if 2 * _in_utf8(text) > _high(text) > 0:
        return "UTF-8 but for some broken bytes; iconv -c -f UTF-8 -t UTF-8 drops those"
    guess = _wide(text) or _legacy(text)
    return f"perhaps {guess}, a guess; iconv -f {guess} -t UTF-8" if guess else "binary?"


def _high(text: bytes) -> int:
    """How many bytes are above 127."""
    return len(text) - len(text.translate(None, _HIGH))


def _in_utf8(text: bytes) -> int:
    """How many of the bytes above 127 belong to whole UTF-8 characters."""
    return _high(text.decode("utf-8", "ignore").encode())


def _wide(text: bytes) -> str | None:
    """UTF-16 without a mark: most of every other byte is NUL in text of Latin letters."""
    even, odd = text[::2], text[1::2]
    for name, zeros, others in (("UTF-16LE", odd, even), ("UTF-16BE", even, odd)):
        if zeros.count(0) > len(zeros) / 2 and not others.count(0):
            return name
    return None


def _legacy(text: bytes) -> str | None:
    """The encoding of one language's that explains most of the bytes above 127."""
    high = _high(text)
    if 0 in text or not high:
        return None
    best: float = PLAUSIBLE
    name: str | None = None
    for candidate, codec, usual, frequent in _LEGACY:
        try:
            codecs.getincrementaldecoder(codec)().decode(text)  # the sample may end within a character
        except UnicodeDecodeError:
            continue
        explained = sum(map(_high, re.findall(usual, text))) / high
        score = explained * (1 + len(re.findall(frequent, text)) / high)
        if score > best:
            best, name = score, candidate
    return name
