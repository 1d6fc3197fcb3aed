"""Crawls: what a WARC record's document is, what is left out, and damage; counted as warcio counts."""

import bz2
import gzip
import io
import lzma
import random
import zlib
from collections import Counter

import pytest
import zstandard

from tests.corpus import write_texts
from tests.data.text.formats import crawl, page, record, response, wet
from tests.data.text.reading import assert_refused, read
from trainer.data.text import packed
from trainer.data.text.filters import BAD_RECORD, OTHER_FORMAT, TOO_LARGE, UNDECODABLE
from trainer.data.text.readers import warc_records
from trainer.data.text.readers.warc import OTHER_STATUS, OTHER_TYPE
from trainer.data.text.reading import Account
from trainer.data.text.records import Rejected

TEXTS = write_texts(20)
DOCUMENTS = [text.encode() for text in TEXTS]
PACKED = pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])


def write(tmp_path, records, name="a.warc"):
    (tmp_path / name).write_bytes(b"".join(records))
    return tmp_path / name


@PACKED
def test_garbage_between_records_is_counted_and_no_document_is_lost(pack, tmp_path):
    packed = [pack(each) for each in wet(TEXTS)]
    for garbage in (
        b"garbage\n" * 40,
        b"\0" * 50 + b"x" * 2**21,
        b"WARC/9.9\r\n",
        b"\x1f\x8b\x08garbage",
        b"WARC/1.0\r\nx: y\r\n\r\n",
    ):
        documents = read(write(tmp_path, [*packed[:7], garbage, *packed[7:]]))
        assert [document for document in documents if isinstance(document, bytes)] == DOCUMENTS
        assert [document for document in documents if document == Rejected(BAD_RECORD)] != []


@PACKED
def test_a_crawl_that_is_cut_short_loses_its_last_record_alone_and_says_so(pack, tmp_path):
    packed = [pack(each) for each in wet(TEXTS)]
    whole = b"".join(packed)
    for cut in (len(packed[-1]) - 1, len(packed[-1]) // 2, 30, 6):
        assert read(write(tmp_path, [whole[:-cut]])) == [*DOCUMENTS[:-1], Rejected(BAD_RECORD)]


@PACKED
def test_a_damaged_record_is_counted_and_the_next_one_is_read(pack, tmp_path):
    records = wet(TEXTS)
    size = f"Content-Length: {len(DOCUMENTS[5])}".encode()
    for wrong in (b"Content-Length: 1", b"Content-Length: 9999", b"Content-Length: -5", b"Content-Length: x", b"X: 1"):
        broken = [*records[:5], records[5].replace(size, wrong), *records[6:]]
        documents = read(write(tmp_path, map(pack, broken)))
        assert BAD_RECORD in [document.reason for document in documents if isinstance(document, Rejected)]
        found = [document for document in documents if isinstance(document, bytes)]
        assert found in ([*DOCUMENTS[:5], *DOCUMENTS[6:]], [*DOCUMENTS[:5], *DOCUMENTS[-len(found) + 5 :]])
        assert len(found) >= 10


def test_a_flipped_bit_in_a_gzip_member_costs_that_record_alone(tmp_path):
    packed = [gzip.compress(each) for each in wet(TEXTS)]
    middle = bytearray(packed[5])
    middle[len(middle) // 2] ^= 0xFF
    documents = read(write(tmp_path, [*packed[:5], bytes(middle), *packed[6:]]))
    assert documents == [*DOCUMENTS[:5], Rejected(BAD_RECORD), *DOCUMENTS[6:]]


def test_a_file_without_any_record_is_refused(tmp_path):
    for content in (b"", b"prose\n" * 100, gzip.compress(b"prose")):
        assert_refused(write(tmp_path, [content]), "a.warc", "no WARC record")


def test_what_is_no_page_is_counted_by_kind(tmp_path):
    records = [
        record(b"x", "warcinfo"),
        record(b"x", "request"),
        record(b"x", "revisit"),
        record(b"x", "\x1b[31m"),
        response(page("moved"), status="301 Moved"),
        response(page("gone"), status="404 Not Found"),
        response(b"\x89PNG", "image/png"),
        response(b"a,b", "text/csv"),
        record(b"1.1.1.1", "response", "text/dns"),
        response(b"plain text", "text/plain; charset=utf-8"),
        response(page("of no type"), ""),
        record(page("a resource"), "resource", "text/html"),
        response(page("x"), "application/xhtml+xml"),
    ]
    account = Account()
    assert read(write(tmp_path, records), account=account) == [b"plain text", b"of no type", b"a resource", b"x"]
    assert account.unused[OTHER_STATUS] == 2
    assert account.unused[OTHER_TYPE] == 3
    assert {what.rpartition("type ")[2]: count for what, count in account.unused.items() if "the type" in what} == {
        "warcinfo": 1,
        "request": 1,
        "revisit": 1,
        "of another kind": 1,
    }


def test_replies_are_unpacked_as_their_headers_say_or_as_they_are(tmp_path):
    html = page("the text")
    chunks = b"".join(b"%x;ext\r\n%s\r\n" % (len(part), part) for part in (html[:50], html[50:])) + b"0\r\n\r\n"
    raw = zlib.compressobj(wbits=-15)
    records = [
        response(chunks, **{"Transfer-Encoding": "chunked"}),
        response(html, **{"Transfer-Encoding": "chunked"}),
        response(gzip.compress(html), **{"Content-Encoding": "gzip"}),
        response(html, **{"Content-Encoding": "gzip"}),
        response(gzip.compress(html[:50]) + gzip.compress(html[50:]), **{"Content-Encoding": "gzip"}),
        response(zlib.compress(html), **{"Content-Encoding": "deflate"}),
        response(raw.compress(html) + raw.flush(), **{"Content-Encoding": "deflate"}),
        response(html, **{"Content-Encoding": "br"}),
    ]
    assert read(write(tmp_path, records)) == [b"the text"] * 8
    records = [
        response(b"\x8b\x05\x80", **{"Content-Encoding": "br"}),
        response(gzip.compress(html)[:-12], **{"Content-Encoding": "gzip"}),
        response(gzip.compress(bytes(2**24)), **{"Content-Encoding": "gzip"}),
        record(b"no reply", "response", "application/http"),
        record(b"", "response", "application/http"),
    ]
    records.append(response(gzip.compress(b"") * 10_000, **{"Content-Encoding": "gzip"}))
    reasons = [OTHER_FORMAT, BAD_RECORD, TOO_LARGE, BAD_RECORD, BAD_RECORD, BAD_RECORD]
    assert read(write(tmp_path, records)) == list(map(Rejected, reasons))


def test_the_header_of_a_reply_says_its_encoding_before_the_page_does(tmp_path):
    text = "这是一个很好的问题，我们不应该忘记过去的事情。"
    wrong = page(text, "gb18030").replace(b'charset="gb18030"', b'charset="utf-8"')
    records = [
        response(wrong, "text/html; charset=GBK"),
        response(text.encode("gb18030"), "text/plain; charset=gb2312"),
    ]
    account = Account()
    assert read(write(tmp_path, records), account=account) == [text.encode()] * 2
    assert account.changed["decoded from gbk"] + account.changed["decoded from gb2312"] == 2
    unmarked = response(wrong.replace(b'charset="utf-8"', b""), "text/html")
    assert read(write(tmp_path, [unmarked, *records])) == [Rejected(UNDECODABLE), text.encode(), text.encode()]


def test_a_record_above_the_bound_is_counted_and_passed_over(tmp_path):
    records = [record(b"a"), record(bytes(2**22)), record(b"b")]
    assert read(write(tmp_path, records), most_bytes=1000) == [b"a", Rejected(TOO_LARGE), b"b"]
    bomb = [gzip.compress(each) for each in (record(b"a"), record(bytes(2**26)), record(b"b"))]
    assert read(write(tmp_path, bomb), most_bytes=1000) == [b"a", Rejected(TOO_LARGE), b"b"]


class CountedFile(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    taken = 0

    def read(self, size=-1):
        content = super().read(size)
        self.taken += len(content)
        return content


def test_a_packed_crawl_is_read_once(monkeypatch):
    """Over a network each byte that is read again is paid for again."""
    monkeypatch.setattr(warc_records, "PIECE", 3000)
    content = b"".join(map(gzip.compress, crawl(TEXTS * 10)))
    file = CountedFile(content)
    assert (
        sum(isinstance(record, warc_records.WarcRecord) for record in warc_records.records_in_file(file, 2**20)) == 601
    )
    assert file.taken < 1.01 * len(content) + 3000


@PACKED
def test_records_are_as_many_as_warcio_counts(pack, tmp_path):
    archive = pytest.importorskip("warcio.archiveiterator")
    path = write(tmp_path, map(pack, [*crawl(TEXTS), *wet(TEXTS), response(b"x", status="500 Oops")]))
    account = Account()
    documents = read(path, account=account)
    counted = Counter(each.rec_type for each in archive.ArchiveIterator(io.BytesIO(path.read_bytes())))
    assert documents == DOCUMENTS * 2
    assert len(documents) + account.unused.total() == counted.total()
    assert account.unused["WARC records of the type request"] == counted["request"]


def test_what_warcio_writes_is_read(tmp_path):
    writer = pytest.importorskip("warcio.warcwriter")
    headers = pytest.importorskip("warcio.statusandheaders").StatusAndHeaders
    with open(tmp_path / "a.warc.gz", "wb") as file:
        warc = writer.WARCWriter(file, gzip=True)
        for text in TEXTS:
            reply = headers("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            content = io.BytesIO(page(text))
            warc.write_record(warc.create_warc_record("http://x/", "response", payload=content, http_headers=reply))
    assert read(tmp_path / "a.warc.gz") == DOCUMENTS


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, lzma.compress, bz2.compress])
def test_damage_within_a_crawl_that_was_packed_in_one_loses_no_other_record(pack, tmp_path, monkeypatch):
    records = wet(TEXTS)
    size = f"Content-Length: {len(DOCUMENTS[5])}".encode()
    garbage = [*records[:7], b"garbage", records[7], b"\0" * 3_000_000, *records[8:]]
    wrong = [*records[:5], records[5].replace(size, b"Content-Length: 999"), *records[6:]]
    for piece in (2**20, 100):
        monkeypatch.setattr(packed, "PIECE", piece)
        monkeypatch.setattr(warc_records, "PIECE", piece)
        for damaged, kept in ((garbage, DOCUMENTS), (wrong, DOCUMENTS[:5] + DOCUMENTS[6:])):
            documents = read(write(tmp_path, [pack(b"".join(damaged))]))
            assert [document for document in documents if isinstance(document, bytes)] == kept
            assert documents.count(Rejected(BAD_RECORD)) == (2 if kept is DOCUMENTS else 1)


def test_a_crawl_in_one_gzip_member_that_is_cut_loses_its_last_record_alone(tmp_path):
    noise = random.Random(5)
    texts = [bytes(noise.choices(b"abcdefghijklmnopqrstuvwxyz ", k=30_000)).decode() for _ in range(9)]
    cut = gzip.compress(b"".join(wet(texts)), 1)[:-9_000]
    assert read(write(tmp_path, [cut])) == [*(text.encode() for text in texts[:-1]), Rejected(BAD_RECORD)]


def test_a_reply_whose_header_ends_in_line_feeds_alone_keeps_its_page(tmp_path):
    html = page("one\n\ntwo").replace(b"</p>", b"</p>\r\n\r\n")
    for end in (b"\n", b"\r\n"):
        reply = b"HTTP/1.1 200 OK" + end + b"Content-Type: text/html" + 2 * end + html
        assert read(write(tmp_path, [record(reply, "response", "application/http")])) == [b"one\n\ntwo"]


def test_a_page_that_its_server_calls_plain_text_is_a_page(tmp_path):
    assert read(write(tmp_path, [response(page("the text"), "text/plain")])) == [b"the text"]
