"""One corpus in every format that is read: each writer takes texts, and gives the content of a file by its name."""

import bz2
import gzip
import html
import io
import json
import lzma
import zipfile
from xml.sax.saxutils import escape

import zstandard

from tests.data.text.reading import tar_of

SEPARATOR = "\n<|end|>\n"
PACK = {"gz": gzip.compress, "zst": zstandard.compress, "xz": lzma.compress, "bz2": bz2.compress}


def jsonl(texts, encoding="utf-8"):
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode(encoding)


def separated(texts, encoding="utf-8"):
    return SEPARATOR.join(texts).encode(encoding)


def table(texts, separator=",", encoding="utf-8"):
    rows = [f'{number}{separator}"{text.replace(chr(34), chr(34) * 2)}"\r\n' for number, text in enumerate(texts)]
    return f"id{separator}text\r\n{''.join(rows)}".encode(encoding)


def arrow_table(texts):
    import pyarrow

    return pyarrow.table({"id": list(range(len(texts))), "text": texts})


def parquet(texts, rows=7, **how):
    import pyarrow.parquet

    content = io.BytesIO()
    pyarrow.parquet.write_table(arrow_table(texts), content, row_group_size=rows, **how)
    return content.getvalue()


def arrow(texts, *, stream, rows=7):
    import pyarrow.ipc

    content = io.BytesIO()
    table = arrow_table(texts)
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(content, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return content.getvalue()


def page(text, encoding="utf-8", *, menu=True):
    paragraphs = "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n"))
    around = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/about'>About us</a></li></ul></nav>"
    head = f'<!DOCTYPE html><html><head><meta charset="{encoding}"><title>A page</title></head>'
    return f"{head}<body>{around if menu else ''}<main><article>{paragraphs}</article></main></body></html>".encode(
        encoding
    )


def record(content, kind="conversion", content_type="text/plain", uri="http://example.org/", **fields):
    lines = {"WARC-Type": kind, "WARC-Target-URI": uri, "Content-Type": content_type, **fields}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, "Content-Length": len(content)}.items())
    return f"WARC/1.0\r\n{head}\r\n".encode() + content + b"\r\n\r\n"


def response(content, content_type="text/html", status="200 OK", **fields):
    head = "".join(f"{name}: {value}\r\n" for name, value in {"Content-Type": content_type, **fields}.items())
    reply = f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content
    return record(reply, "response", "application/http; msgtype=response")


def crawl(texts, encoding="utf-8"):
    """Records of a crawl, as bytes each: what is asked for and what is told beside each response are there too."""
    records = [record(b"software: test\r\n", "warcinfo", "application/warc-fields")]
    for text in texts:
        records += [record(b"GET / HTTP/1.1\r\n\r\n", "request", "application/http"), response(page(text, encoding))]
        records += [record(b"fetchTimeMs: 1\r\n", "metadata", "application/warc-fields")]
    return records


def wet(texts):
    return [record(text.encode()) for text in texts]


def wikipedia(texts, extra=""):
    space = "<namespaces><namespace key='0' /><namespace key='6'>Datei</namespace></namespaces>"
    pages = "".join(
        f"<page><title>Title {number}</title><ns>0</ns><id>{number}</id><revision><text bytes='1'>{escape(text)}"
        "</text></revision></page>"
        for number, text in enumerate(texts)
    )
    return f"<mediawiki xmlns='http://www.mediawiki.org/x/'><siteinfo>{space}</siteinfo>{pages}{extra}</mediawiki>".encode()


def epub(chapters, **more):
    """A book; `chapters` are texts or whole pages, in reading order, which isn't that of their names."""
    pages = {f"c{9 - number}.xhtml": text for number, text in enumerate(chapters)}
    items = "".join(f'<item id="{name}" href="text/{name}" media-type="application/xhtml+xml"/>' for name in pages)
    spine = "".join(f'<itemref idref="{name}"/>' for name in pages)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        )
        package = f"<manifest>{items}</manifest><spine>{spine}</spine>"
        archive.writestr("OEBPS/book.opf", f'<package xmlns="http://www.idpf.org/2007/opf">{package}</package>')
        for name, text in pages.items():
            archive.writestr(f"OEBPS/text/{name}", text if isinstance(text, bytes) else page(text, menu=False))
        for name, text in more.items():
            archive.writestr(name.replace("__", "/").replace("_xml", ".xml"), text)
    return content.getvalue()


def tar(texts):
    return tar_of((f"{number:04d}.txt", text.encode()) for number, text in enumerate(texts))


def every_format(texts):
    """File name → content, for all formats and the encodings that need no naming; each holds the same documents.

    Those called corpus.txt are to be cut at SEPARATOR.
    """
    files = {
        "lines.jsonl": jsonl(texts),
        "lines.ndjson": jsonl(texts, "utf-8-sig"),
        "utf16.jsonl": jsonl(texts, "utf-16"),
        "table.csv": table(texts),
        "table.tsv": table(texts, "\t"),
        "utf16.csv": table(texts, encoding="utf-16"),
        "rows.parquet": parquet(texts),
        "rows.arrow": arrow(texts, stream=False),
        "stream.arrow": arrow(texts, stream=True),
        "shard.tar": tar(texts),
        "crawl.warc": b"".join(crawl(texts)),
        "crawl.warc.gz": b"".join(map(gzip.compress, crawl(texts))),
        "whole.warc.gz": gzip.compress(b"".join(crawl(texts))),
        "text.wet": b"".join(wet(texts)),
        "text.warc.wet.gz": b"".join(map(gzip.compress, wet(texts))),
        "gb18030.warc": b"".join(crawl(texts, "gb18030")),
        "dump.xml": wikipedia(texts),
        "dump.xml.bz2": bz2.compress(wikipedia(texts)),
    }
    for ending, pack in PACK.items():
        files |= {f"lines.jsonl.{ending}": pack(jsonl(texts)), f"corpus.txt.{ending}": pack(separated(texts))}
    return files | {"corpus.txt": separated(texts)}
