"""What a file's content is, whatever its name; what isn't text is refused by name or counted, never taken for prose."""

import gzip
import json
import tracemalloc

import pytest
import zstandard

from tests.corpus import write_texts
from tests.data.text.reading import assert_refused, read, write_tar
from tests.prepared import write_jsonl
from trainer.data.text.encodings import likely_encoding
from trainer.data.text.filters import BAD_JSON, EMPTY, NO_TEXT_FIELD, OTHER_FORMAT, TOO_LARGE, UNDECODABLE
from trainer.data.text.records import Rejected

TEXTS = write_texts(5)
LINES = "".join(json.dumps({"url": "x", "text": text}) + "\n" for text in TEXTS).encode()
DOCUMENTS = [text.encode() for text in TEXTS]
CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"

# ---- JSON


@pytest.mark.parametrize("name", ["x.json", "x.txt", "x.log", "x.md", "x.py", "x.dat", "x", "x.JSON", "x.2024"])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_json_lines_are_known_by_content_under_any_name(name, packing, tmp_path):
    path = tmp_path / f"{name}{packing}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packing](LINES))
    assert read(path) == DOCUMENTS


def test_packed_files_are_known_by_content_too(tmp_path):
    for packed in (gzip.compress(LINES), zstandard.compress(LINES)):
        (tmp_path / "x.jsonl").write_bytes(packed)
        assert read(tmp_path / "x.jsonl") == DOCUMENTS
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(b"prose"))
    assert read(tmp_path / "x.txt.gz") == [b"prose"]


def test_json_lines_longer_than_what_is_looked_at_are_known(tmp_path):
    text = "word " * 200_000
    path = write_jsonl(tmp_path / "long.json", [text, text])
    assert read(path) == [text.encode()] * 2
    path.rename(tmp_path / "long.txt")
    assert read(tmp_path / "long.txt") == [text.encode()] * 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([{"text": text} for text in TEXTS])),
        ("a.txt", json.dumps([{"text": text} for text in TEXTS], indent=1)),
        ("a.json", json.dumps({"text": "a", "b": [1]}, indent=2)),
        ("a.log", "".join(json.dumps({"text": text}, indent=2) + "\n" for text in TEXTS)),
        ("a", '["a"]\n["b"]\n'),
        ("a.json", '"a"'),
        ("a.json", "prose"),
        ("a.json", json.dumps([{"text": "word " * 100_000}])),
        ("a.txt", '<?xml version="1.0"?>\n<a/>'),
        ("a.txt", "\ufeff\n<svg><text>x</text></svg>"),
        ("a", "<rss><item>x</item></rss>"),
        ("a.txt", "id,text\n1,hello\n2,world\n"),
        ("a", '"text"\t"id"\r\nhello\t1\r\n'),
        ("a.txt", "%PDF-1.4\n"),
        ("a.txt", r"{\rtf1 text}"),
    ],
)
def test_other_formats_are_refused_by_name_and_counted_in_folders(name, content, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    assert_refused(path, path, "can't be read as text")
    if name.endswith((".txt", ".log")):
        assert read(tmp_path) == read(tmp_path / "a*") == [Rejected(OTHER_FORMAT)]
    else:
        assert_refused(tmp_path / "a*", path, "can't be read as text")
    if name.endswith(".json"):
        assert_refused(tmp_path, path, "can't be read as text", include=[".json"])


@pytest.mark.parametrize(
    "content",
    [
        "{curly} prose",
        "[1] a footnote",
        '["Hello," she said',
        "{",
        "a,text\nof verse",
        "<b>bold</b>",
    ],
)
def test_prose_that_only_looks_like_another_format_is_prose(content, tmp_path):
    (tmp_path / "a.txt").write_text(content)
    assert read(tmp_path / "a.txt") == [content.encode()]


def test_code_may_look_like_anything(tmp_path):
    for name, content in (("a.yaml", '{"a": 1}'), ("a.py", "[1, 2]"), ("a.js", '["x"]'), ("a.toml", "[a]\n")):
        (tmp_path / name).write_text(content)
        assert read(tmp_path / name) == [content.encode()]


def test_content_known_json_lines_without_the_field_are_refused_if_named_and_counted_in_folders(tmp_path):
    (tmp_path / "events.log").write_text('{"event": 1}\n{"event": 2}\n')
    assert_refused(tmp_path / "events.log", "data.text_field", "'event'")
    assert read(tmp_path) == [Rejected(NO_TEXT_FIELD)] * 2


# ---- encodings


def test_json_lines_without_one_that_is_utf8_are_refused_with_the_likely_encoding(tmp_path):
    line = json.dumps({"text": CHINESE}, ensure_ascii=False) + "\n"
    path = tmp_path / "x.jsonl"
    for encoding, name in (("gb18030", "GB18030, a guess"), ("utf-32", "UTF-32 by its byte order mark")):
        path.write_bytes((line * 20).encode(encoding))
        assert_refused(path, path, "undecodable", "line 1", name)
        assert_refused(tmp_path, path, "undecodable", "line 1", name)
    path.write_bytes(line.encode("gb18030") * 20 + b'{"text": "one"}')
    documents = read(path)
    assert documents == [Rejected(UNDECODABLE)] * 20 + [b"one"]
    assert "line 1" in str(documents[0])
    assert "line 20" in str(documents[19])


def test_a_text_in_another_encoding_is_refused_or_counted_with_the_likely_encoding(tmp_path):
    path = tmp_path / "x.txt"
    for encoding in ("gb18030", "utf-32"):
        path.write_bytes(CHINESE.encode(encoding))
        name = encoding.upper()
        assert_refused(path, path, "not UTF-8 text", name)
        (document,) = read(tmp_path)
        assert document == Rejected(UNDECODABLE)
        assert name in str(document)


JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая по-своему."


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        (CHINESE, "gb18030", "GB18030"),
        ("他說這是一個很好的問題，我們不應該忘記過去的事情。", "big5", "BIG5"),
        (JAPANESE, "shift_jis", "SHIFT_JIS"),
        (JAPANESE, "euc_jp", "EUC-JP"),
        ("나는 한국 사람입니다. 오늘은 날씨가 좋습니다.", "euc_kr", "EUC-KR"),
        (RUSSIAN, "cp1251", "WINDOWS-1251"),
        (RUSSIAN, "koi8_r", "KOI8-R"),
        ("Après la pluie, l'été était déjà là; à l'école.", "latin-1", "WINDOWS-1252"),
        ("Hello, world", "utf-16-le", "UTF-16LE"),
        ("Hello, world", "utf-16-be", "UTF-16BE"),
    ],
)
def test_encodings_are_guessed_and_said_to_be_guessed(text, codec, name):
    for written in (text, json.dumps({"text": text}, ensure_ascii=False)):
        assert f"perhaps {name}, a guess" in likely_encoding(written.encode(codec))


def test_broken_utf8_and_binaries_are_not_given_an_encoding():
    assert "UTF-8 but for some broken bytes" in likely_encoding((CHINESE * 9).encode()[:-1])
    assert likely_encoding(b"\x89PNG\r\n\x1a\n\0\xff\xfe") == "binary?"


# ---- bounds


def test_documents_above_the_bound_are_counted_and_never_cut(tmp_path):
    texts = ["a" * 100, "b" * 101, "é" * 50, "é" * 51, "c" * 2**21]
    expected = [b"a" * 100, Rejected(TOO_LARGE), "é".encode() * 50, Rejected(TOO_LARGE), Rejected(TOO_LARGE)]
    assert read(write_jsonl(tmp_path / "x.jsonl", texts), most_bytes=100) == expected
    tar = write_tar(tmp_path / "x.tar", [(f"{n}.txt", text.encode()) for n, text in enumerate(texts)])
    assert read(tar, most_bytes=100) == expected
    (tmp_path / "in").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "in" / f"{number}.txt").write_text(text)
    assert read(tmp_path / "in", most_bytes=100) == expected
    assert_refused(tmp_path / "in" / "1.txt", "data.most_document_bytes=100", "101 bytes", most_bytes=100)
    assert_refused(
        write_jsonl(tmp_path / "large.jsonl", ["b" * 101]), "data.most_document_bytes=100", "line 1", most_bytes=100
    )


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.txt.gz", "x.txt.zst", "x.jsonl", "x.txt"])
def test_reading_holds_little_more_than_the_largest_document_however_well_it_is_packed(name, tmp_path):
    path, size, most = tmp_path / name, 2**28, 2**22
    zeros = b"a" * 2**24
    if name.endswith(".gz"):
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(size // len(zeros)):
                file.write(zeros)
    elif name.endswith(".zst"):
        with open(path, "wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as packed:
            for _ in range(size // len(zeros)):
                packed.write(zeros)
    else:
        with open(path, "wb") as file:
            file.truncate(size)
    tracemalloc.start()
    try:
        assert_refused(path, path, "data.most_document_bytes", most_bytes=most)
        assert tracemalloc.get_traced_memory()[1] < 2 * most + 64 * 2**20
    finally:
        tracemalloc.stop()


def test_a_zstandard_window_above_the_bound_is_refused_by_name(tmp_path):
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
    with open(tmp_path / "x.jsonl.zst", "wb") as file:
        with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file) as packed:
            packed.write(LINES)
    assert_refused(tmp_path / "x.jsonl.zst", "data.most_document_bytes", "window")
    assert read(tmp_path / "x.jsonl.zst", most_bytes=2**28) == DOCUMENTS


# ---- line by line


def test_reasons_name_their_lines(tmp_path):
    lines = [b'{"text": "good"}', b"", b"{", b"[]", b"{}", b'{"text": " "}', b'{"text": "a\\u0000"}\r', b"\0"]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    documents = read(tmp_path / "x.jsonl")
    reasons = [BAD_JSON, BAD_JSON, NO_TEXT_FIELD, EMPTY, UNDECODABLE, UNDECODABLE]
    assert documents == [b"good", *map(Rejected, reasons)]
    assert [str(document).partition(":")[0] for document in documents[1:]] == [f"line {n}" for n in range(3, 9)]
