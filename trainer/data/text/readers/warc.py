"""Crawls: WARC (HTML pages, extracted) and WET (texts), plain or gzip. Other records are counted as left out."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.filters import BAD_RECORD, OTHER_FORMAT
from trainer.data.text.formats import is_html
from trainer.data.text.packed import packing_of
from trainer.data.text.readers import html
from trainer.data.text.readers.reader import Reader
from trainer.data.text.readers.warc_records import Damage, WarcRecord, records_in_file, records_in_stream
from trainer.data.text.reading import UTF_8, WHOLE, Account, Part, Reading
from trainer.data.text.records import Record, Rejected, checked, short, too_large
from trainer.data.text.sources import Source, content_of
from trainer.errors import InputError

GZIP = 31  # as zlib's wbits
MOST_MEMBERS = 100  # of a reply that is packed in several
GZIP_MAGIC = b"\x1f\x8b"  # of a member
HTTP_HEADER = 2**20  # bytes that a response may have besides its page
TYPES = ("request", "metadata", "revisit", "warcinfo", "continuation")
HTML_TYPES = ("text/html", "application/xhtml+xml")
OTHER_STATUS = "responses with another status than 200"
OTHER_TYPE = "records of crawls that hold neither HTML nor text"
_STATUS = re.compile(rb"HTTP/\d[\d.]* +(\d{3})\b")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]{1,40})""", re.I)


def read(source: Source, part: Part, account: Account) -> Iterator[Record]:
    """The pages and texts of a crawl; damage is a record that is rejected."""
    account.records = 0
    found = 0
    for record in _records(source, part):
        found += isinstance(record, WarcRecord)
        document = _document(record, source.reading, account)
        if document is None:
            continue
        number = account.records
        account.records += 1
        if isinstance(document, bytes) and isinstance(record, WarcRecord):
            account.note_address(record.fields.get("warc-target-uri", "").strip("<>"))  # as wget writes them
        yield number, document.at(_place(record)) if isinstance(document, Rejected) else document
    if part.is_whole and not found:
        raise InputError(
            f"{escape(source.address)}: holds no WARC record: fetch it again, or leave it out of data.input."
        )


def _records(source: Source, part: Part) -> Iterator[WarcRecord | Damage]:
    most = source.reading.most_bytes + HTTP_HEADER
    with open_file(source.address) as file:
        packing = packing_of(file.read(10))
        if packing in ("", ".gz"):
            yield from records_in_file(file, most, part.start, part.stop)
            return
    with content_of(source) as content:
        yield from records_in_stream(content, most)


def _place(record: WarcRecord | Damage) -> str:
    if isinstance(record, Damage):
        return ""
    return short(record.fields.get("warc-target-uri") or record.fields.get("warc-record-id") or "a record")


def _document(record: WarcRecord | Damage, reading: Reading, account: Account) -> bytes | Rejected | None:
    """The document of a record; None if it is of a kind that has none, which is counted."""
    if isinstance(record, Damage):
        return Rejected(BAD_RECORD, record.problem)
    kind = record.fields.get("warc-type", "").lower()
    if kind not in ("response", "resource", "conversion"):
        account.unused[f"WARC records of the type {kind if kind in TYPES else 'of another kind'}"] += 1
        return None
    if record.content is None:
        return too_large(record.bytes, reading.most_bytes)
    if kind == "response":
        reply = _http(record, reading, account)
        if not isinstance(reply, _Reply):
            return reply
    else:
        reply = _Reply(record.content, record.fields.get("content-type", ""))
    return _text(reply, reading, account)


@dataclass(frozen=True)
class _Reply:
    content: bytes
    type: str


def _text(reply: _Reply, reading: Reading, account: Account) -> bytes | Rejected | None:
    kind = reply.type.partition(";")[0].strip().lower()
    charset = _CHARSET.search(reply.type)
    declared = charset[1] if charset else None
    if kind in HTML_TYPES or (kind in ("", "text/plain") and is_html(reply.content)):
        return html.read_page(reply.content, reading, account, declared=declared)
    if kind != "text/plain":
        account.unused[OTHER_TYPE] += 1
        return None
    if len(reply.content) > reading.most_bytes:
        return too_large(len(reply.content), reading.most_bytes)
    decoded = html.decoded_page(reply.content, reading, declared)
    if isinstance(decoded, Rejected):
        return checked(reply.content)  # whose reason names the byte
    encoding, text = decoded
    document = checked(text.encode("utf-8"))
    account.changed[f"decoded from {encoding}"] += encoding != UTF_8 and isinstance(document, bytes)
    return document


def _http(record: WarcRecord, reading: Reading, account: Account) -> _Reply | Rejected | None:
    """The reply in a response, unpacked."""
    content = record.content or b""
    if not record.fields.get("content-type", "application/http").lower().startswith("application/http"):
        account.unused[OTHER_TYPE] += 1  # dns: and the like
        return None
    blank, status = _BLANK_LINE.search(content, 0, HTTP_HEADER), _STATUS.match(content)
    if blank is None or status is None:
        return Rejected(BAD_RECORD, "no HTTP response")
    head, body = content[: blank.start()], content[blank.end() :]
    if status[1] != b"200":
        account.unused[OTHER_STATUS] += 1
        return None
    fields: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = _without_chunks(body)
    unpacked = _unpacked(body, fields.get("content-encoding", "").lower(), reading.most_bytes)
    if isinstance(unpacked, Rejected):
        return unpacked
    kind = fields.get("content-type") or record.fields.get("warc-identified-payload-type", "")
    return _Reply(unpacked, kind)


def _without_chunks(body: bytes) -> bytes:
    """The body of a reply that came in chunks; itself, where the crawler has joined them and left the header."""
    parts: list[bytes] = []
    place = 0
    while True:
        end = body.find(b"\r\n", place, place + 64)
        size = body[place:end].partition(b";")[0].strip() if end >= 0 else b""
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            return body
        count, place = int(size, 16), end + 2
        if not count:
            return b"".join(parts)
        if body[place + count : place + count + 2] != b"\r\n":
            return body
        parts.append(body[place : place + count])
        place += count + 2


def _unpacked(body: bytes, encoding: str, most_bytes: int) -> bytes | Rejected:
    """A body without its Content-Encoding; itself, where the crawler has unpacked it and left the header."""
    if encoding in ("gzip", "x-gzip") and body.startswith(GZIP_MAGIC):
        wbits = GZIP
    elif encoding == "deflate":
        wbits = 15 if body[:1] == b"\x78" else -15
    elif encoding in ("br", "zstd") and not is_html(body):
        return Rejected(OTHER_FORMAT, f"Content-Encoding: {encoding}")
    else:
        return body
    unpacker, parts, left = zlib.decompressobj(wbits=wbits), list[bytes](), most_bytes + 1
    try:
        parts.append(unpacker.decompress(body, left))
        while wbits == GZIP and (left := left - len(parts[-1])) > 0 and unpacker.unused_data.startswith(GZIP_MAGIC):
            if len(parts) == MOST_MEMBERS:
                return Rejected(BAD_RECORD, f"Content-Encoding: {encoding} (more than {MOST_MEMBERS} members)")
            body, unpacker = unpacker.unused_data, zlib.decompressobj(wbits=wbits)
            parts.append(unpacker.decompress(body, left))
    except zlib.error as error:
        return body if encoding == "deflate" else Rejected(BAD_RECORD, f"Content-Encoding: {encoding} ({error})")
    text = b"".join(parts)
    if len(text) > most_bytes:
        return too_large(len(text), most_bytes)
    return text if unpacker.eof else Rejected(BAD_RECORD, f"Content-Encoding: {encoding} (cut short)")


def parts(source: Source, wanted_bytes: int) -> list[Part]:
    """Ranges of records. Where those begin is only known by reading them: a pass without extraction."""
    starts, next_edge = [0], wanted_bytes
    with open_file(source.address) as file:
        if packing_of(file.read(10)) not in ("", ".gz"):
            return [WHOLE]
        for record in records_in_file(file, 0):
            place = record.place if isinstance(record, WarcRecord) else None
            if place is not None and place >= next_edge:
                starts.append(place)
                next_edge = place + wanted_bytes
    if len(starts) == 1:
        return [WHOLE]
    return [
        Part(start, stop, (source.bytes if stop is None else stop) - start)
        for start, stop in zip(starts, [*starts[1:], None], strict=True)
    ]


READER = Reader(read, parts, parts_take_a_pass=True)
