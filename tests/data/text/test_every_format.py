"""One corpus in every format and several encodings gives the same documents: from the local disk, S3 and HTTP."""

import functools
import json
from itertools import pairwise

import pytest

from tests.corpus import write_texts
from tests.data.text.formats import PACK, SEPARATOR, arrow, epub, every_format, jsonl, page, separated, table
from tests.data.text.reading import assert_refused, find, read
from tests.data.text.servers import PlainHandler, RangeHandler, bucket_server, fill_bucket, served_folder
from tests.data.text.stores import cloud_storage, hub
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


SINGLE = {number: (text, list(PACK)[number % len(PACK)]) for number, text in enumerate(TEXTS)}


@functools.cache
def files():
    return every_format(TEXTS)


KINDS = {"jsonl": jsonl, "csv": table, "txt": separated}
ENCODED = [(encoding, kind) for encoding in ("utf-8", "utf-16", "gb18030", "big5-hkscs") for kind in KINDS]
NAMES = [
    *("lines.jsonl", "lines.ndjson", "utf16.jsonl", "table.csv", "table.tsv", "utf16.csv", "rows.parquet"),
    *("rows.arrow", "stream.arrow", "shard.tar", "crawl.warc", "crawl.warc.gz", "whole.warc.gz", "text.wet"),
    *("text.warc.wet.gz", "gb18030.warc", "dump.xml", "dump.xml.bz2", *(f"lines.jsonl.{ending}" for ending in PACK)),
    *("corpus.txt", *(f"corpus.txt.{ending}" for ending in PACK)),
]


def of_encoding(encoding):
    """The texts as far as an encoding has their characters: big5 lacks some."""
    texts = [text.replace("说", "説").replace("问题", "問題").replace("这", "這") for text in TEXTS]
    return [text.encode(encoding, "ignore").decode(encoding) for text in texts]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """every/ has a file of each format, named/ one of each named encoding, single/ a document to a file; and saved/."""
    path = tmp_path_factory.mktemp("corpora")
    named = {f"{encoding}.{kind}": KINDS[kind](of_encoding(encoding), encoding=encoding) for encoding, kind in ENCODED}
    single = {f"{number:02d}.txt.{pack}": PACK[pack](text.encode()) for number, (text, pack) in SINGLE.items()}
    pages = {f"page-{number:02d}.html": page(text) for number, text in enumerate(TEXTS)}
    books = {f"page-{number:02d}.zz.epub": epub([text]) for number, text in enumerate(TEXTS)}
    saved = {f"data-0000{number}.arrow": arrow(TEXTS[number::2], stream=True) for number in range(2)}
    state = json.dumps({"_data_files": [{"filename": name} for name in saved]}).encode()
    saved |= {"state.json": state, "dataset_info.json": b"{}", "cache-1a2b.arrow": arrow(TEXTS, stream=True)}
    for folder, contents in (
        ("saved", saved),
        ("every", files()),
        ("named", named),
        ("single", single | pages | books),
    ):
        (path / folder).mkdir()
        for name, content in contents.items():
            (path / folder / name).write_bytes(content)
    return path


@pytest.fixture(scope="module")
def folder(corpora):
    return corpora / "every"


def read_separated(path, **how):
    """All documents at `path`, those of text files cut at the separator."""
    return read(path, separator=SEPARATOR.encode(), **how)


def test_no_format_is_forgotten():
    assert sorted(NAMES) == sorted(files())


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_documents_from_the_local_disk(name, folder):
    assert read_separated(folder / name) == DOCUMENTS


def test_a_folder_with_all_formats_gives_all_documents_in_the_order_of_the_names(folder):
    account = Account()
    assert read_separated(folder, account=account) == DOCUMENTS * len(NAMES)
    extracted, decoded = account.changed["HTML to text by resiliparse"], account.changed["decoded from gb18030"]
    assert (extracted, decoded) == (4 * len(TEXTS), len(TEXTS))
    assert account.changed["decoded from utf-16"] == 2 * len(TEXTS)
    assert account.changed["wiki markup to text by mwparserfromhell"] == 2 * len(TEXTS)
    assert account.unused["WARC records of the type request"] == 4 * len(TEXTS)


def assert_named(base, encoding, kind):
    texts = of_encoding(encoding)
    account = Account()
    url = f"{base}/named/{encoding}.{kind}"
    assert read_separated(url, encoding=encoding, account=account) == [text.encode() for text in texts]
    assert account.changed == ({} if encoding == "utf-8" else {f"decoded from {encoding}": len(texts)})


@pytest.mark.parametrize(("encoding", "kind"), ENCODED)
def test_every_named_encoding_gives_the_same_documents(encoding, kind, corpora):
    assert_named(corpora, encoding, kind)


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


def test_one_file_of_a_whole_corpus_may_end_in_the_separator_and_without_one_is_a_document(folder, tmp_path):
    (tmp_path / "wiki.txt").write_bytes(separated(TEXTS) + SEPARATOR.encode())
    assert read_separated(tmp_path / "wiki.txt") == DOCUMENTS
    assert read(folder / "corpus.txt.gz") == [separated(TEXTS)]


# ---- from elsewhere


@pytest.fixture(scope="module", params=[PlainHandler, RangeHandler], ids=["no ranges", "ranges"])
def site(request, corpora):
    with served_folder(corpora, request.param) as url:
        yield url


@pytest.fixture(scope="module")
def bucket(corpora):
    with bucket_server():
        yield fill_bucket(corpora)


def test_every_format_and_encoding_gives_the_same_documents_over_http(site):
    for name in NAMES:
        assert read_separated(f"{site}/every/{name}") == DOCUMENTS, name
    for encoding, kind in ENCODED:
        assert_named(site, encoding, kind)
    names = [f"{number:02d}.txt.{pack}" for number, (_, pack) in SINGLE.items()]
    assert [read(f"{site}/single/{name}") for name in names] == [[document] for document in DOCUMENTS]
    assert read(f"{site}/single/page-{{00..20}}{{.html,.zz.epub}}") == [one for one in DOCUMENTS for _ in range(2)]


def test_every_format_and_encoding_gives_the_same_documents_over_s3(bucket, folder):
    assert read_separated(f"{bucket}/every") == DOCUMENTS * len(NAMES)
    assert read(f"{bucket}/every/*.warc*") == DOCUMENTS * sum(".warc" in name for name in NAMES)
    for encoding, kind in ENCODED:
        assert_named(bucket, encoding, kind)
    assert read(f"{bucket}/single") == [*DOCUMENTS, *(one for one in DOCUMENTS for _ in range(2))]
    assert read(f"{bucket}/saved") == read(folder.parent / "saved") == [*DOCUMENTS[::2], *DOCUMENTS[1::2]]
    here, there = find(folder), find(f"{bucket}/every")
    assert [source.name for source in there.sources] == [source.name for source in here.sources]
    assert [source.bytes for source in there.sources] == [source.bytes for source in here.sources]


@pytest.mark.parametrize("store", [cloud_storage, hub])
def test_google_cloud_storage_and_the_hugging_face_hub_give_the_same_documents(store, corpora):
    with store(corpora) as base:
        assert read_separated(f"{base}/every") == DOCUMENTS * len(NAMES)
        assert read(f"{base}/single/*.html") == DOCUMENTS
        assert read(f"{base}/every/{{rows.parquet,table.csv}}") == DOCUMENTS * 2
        assert [source.name for source in find(f"{base}/every").sources] == sorted(NAMES)
        assert_refused(f"{base}/every/gone.parquet", "gone.parquet")
        assert_refused(f"{base}/gone/*.parquet", f"{base}/gone")


def test_braces_name_several_files_anywhere(folder, site, bucket):
    for base in (folder, f"{site}/every", f"{bucket}/every"):
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
