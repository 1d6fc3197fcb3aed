"""One corpus in every format and several encodings gives the same documents: from the local disk, S3 and HTTP."""

import functools
import http.server
import re
import threading
import uuid
from itertools import pairwise

import pytest

from tests.corpus import write_texts
from tests.data.text.formats import PACK, SEPARATOR, epub, every_format, jsonl, page, separated, table
from tests.data.text.reading import find, read
from trainer.data.text import remote
from trainer.data.text.documents import read_documents
from trainer.data.text.reading import Account

CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。这是一个很好的问题，我们不应该忘记过去的事情。"
TEXTS = [
    *write_texts(15),
    *(f"第{number}篇：{CHINESE}\n\n她说：“你好”，然后离开了。" for number in range(5)),
    'Quotes "here", commas, and tabs\n\nin two paragraphs & <signs>.',
]
DOCUMENTS = [text.encode() for text in TEXTS]


@functools.cache
def files():
    return every_format(TEXTS)


NAMES = [
    *("lines.jsonl", "lines.ndjson", "utf16.jsonl", "table.csv", "table.tsv", "utf16.csv", "rows.parquet"),
    *("rows.arrow", "stream.arrow", "shard.tar", "crawl.warc", "crawl.warc.gz", "whole.warc.gz", "text.wet"),
    *("text.warc.wet.gz", "gb18030.warc", "dump.xml", "dump.xml.bz2", *(f"lines.jsonl.{ending}" for ending in PACK)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("every")
    for name, content in files().items():
        (path / name).write_bytes(content)
    return path


def test_no_format_is_forgotten():
    assert sorted(NAMES) == sorted(files())


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_documents_from_the_local_disk(name, folder):
    assert read(folder / name) == DOCUMENTS


def test_a_folder_with_all_formats_gives_all_documents_in_the_order_of_the_names(folder):
    account = Account()
    assert read(folder, account=account) == DOCUMENTS * len(NAMES)
    extracted, decoded = account.changed["HTML to text by resiliparse"], account.changed["decoded from gb18030"]
    assert (extracted, decoded) == (4 * len(TEXTS), len(TEXTS))
    assert account.changed["decoded from utf-16"] == 2 * len(TEXTS)
    assert account.changed["wiki markup to text by mwparserfromhell"] == 2 * len(TEXTS)
    assert account.unused["WARC records of the type request"] == 4 * len(TEXTS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030", "big5-hkscs"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_every_named_encoding_gives_the_same_documents(encoding, kind, tmp_path):
    texts = [text.replace("说", "説").replace("问题", "問題").replace("这", "這") for text in TEXTS]
    texts = [text.encode(encoding, "ignore").decode(encoding) for text in texts]  # big5 hasn't all of them
    write = {"jsonl": jsonl, "csv": lambda texts, encoding: table(texts, encoding=encoding), "txt": separated}[kind]
    (tmp_path / f"x.{kind}").write_bytes(write(texts, encoding))
    account = Account()
    found = read(tmp_path / f"x.{kind}", encoding=encoding, separator=SEPARATOR.encode(), account=account)
    assert found == [text.encode() for text in texts]
    assert account.changed == ({} if encoding == "utf-8" else {f"decoded from {encoding}": len(texts)})


def test_single_documents_in_files_of_their_own_are_the_same(tmp_path):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number:02d}.txt").write_text(text)
    assert read(tmp_path) == DOCUMENTS
    for form, ending in ((page, "html"), (lambda text: epub([text]), "epub"), (page, "txt"), (page, "")):
        folder = tmp_path / f"pages {ending}"
        folder.mkdir()
        for number, text in enumerate(TEXTS):
            (folder / f"{number:02d}.{ending}".rstrip(".")).write_bytes(form(text))
        if ending:
            assert read(folder) == DOCUMENTS
        else:
            assert read(folder / "00") == DOCUMENTS[:1]


def test_one_file_of_a_whole_corpus_is_cut_at_the_separator(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_bytes(separated(TEXTS) + SEPARATOR.encode())
    for ending, pack in {"": bytes, **{f".{ending}": pack for ending, pack in PACK.items()}}.items():
        packed = tmp_path / f"wiki.txt{ending}"
        packed.write_bytes(pack(separated(TEXTS) + SEPARATOR.encode()))
        assert read(packed, separator=SEPARATOR.encode()) == DOCUMENTS
    assert read(tmp_path / "wiki.txt") == [path.read_bytes()]


# ---- from elsewhere


class Handler(http.server.SimpleHTTPRequestHandler):
    """Python's own server, which knows no ranges."""

    def log_message(self, *_):
        pass


class RangeHandler(Handler):
    """A server with ranges."""

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            super().do_GET()
            return
        with open(self.translate_path(self.path), "rb") as file:
            content = file.read()
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first : last + 1])


@pytest.fixture(scope="module", params=[Handler, RangeHandler], ids=["no ranges", "ranges"])
def site(request, folder):
    handler = functools.partial(request.param, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def bucket(folder):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        import s3fs

        name = f"texts-{uuid.uuid4().hex}"
        files = s3fs.S3FileSystem(skip_instance_cache=True)
        files.mkdir(name)
        files.put([str(path) for path in sorted(folder.iterdir())], f"{name}/every/")
        yield f"s3://{name}"
        server.stop()


def test_every_format_gives_the_same_documents_over_http(site):
    for name in NAMES:
        assert read(f"{site}/{name}") == DOCUMENTS, name


def test_every_format_gives_the_same_documents_over_s3(bucket, folder):
    assert read(f"{bucket}/every") == DOCUMENTS * len(NAMES)
    assert read(f"{bucket}/every/*.warc*") == DOCUMENTS * sum(".warc" in name for name in NAMES)
    here, there = find(folder), find(f"{bucket}/every")
    assert [source.name for source in there.sources] == [source.name for source in here.sources]
    assert [source.bytes for source in there.sources] == [source.bytes for source in here.sources]


def test_braces_name_several_files_anywhere(folder, site, bucket):
    for base in (folder, site, f"{bucket}/every"):
        found = find(f"{base}/{{lines.{{jsonl,ndjson}},table.csv}}", f"{base}/table.{{c..c}}sv")
        assert [source.file_name for source in found.sources] == ["lines.jsonl", "lines.ndjson", "table.csv"]
        assert [document for source in found.sources for _, document in read_documents(source)] == DOCUMENTS * 3


def test_small_blocks_give_the_same_documents_too(bucket, folder, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 3000)
    assert read(f"{bucket}/every/rows.parquet") == read(f"{bucket}/every/crawl.warc.gz") == DOCUMENTS


def test_parts_of_remote_files_are_those_of_local_ones(bucket, folder):
    from trainer.data.text.documents import parts_of

    for name in ("lines.jsonl", "table.csv", "rows.parquet", "crawl.warc.gz"):
        (here,), (there,) = find(folder / name).sources, find(f"{bucket}/every/{name}").sources
        parts = parts_of(here, here.bytes // 5)
        assert parts == parts_of(there, here.bytes // 5)
        assert len(parts) > 2
        assert all(first.stop == second.start for first, second in pairwise(parts))
        assert [text for part in parts for _, text in read_documents(there, part=part)] == DOCUMENTS
