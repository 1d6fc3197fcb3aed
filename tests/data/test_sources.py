"""What inputs yield, and how broken ones are refused."""

import gzip
import io
import json
import tarfile

import pytest
import zstandard

from tests.corpus import write_texts
from tests.prepared import write_jsonl
from trainer.data.documents import Rejected, read_documents
from trainer.data.filters import BAD_JSON, NO_TEXT_FIELD, UNDECODABLE
from trainer.data.sources import find_sources
from trainer.errors import InputError

TEXTS = write_texts(30)


def find(*inputs, include=(), exclude=(), output=None):
    return find_sources([str(given) for given in inputs], list(include), list(exclude), output or inputs[0] / "none")


def read(path, text_field="text", most_bytes=2**20):
    """All records of all sources at `path`."""
    found = find(path)
    return [document for source in found.sources for _, document in read_documents(source, text_field, most_bytes)]


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def test_folder_yields_known_endings_sorted_by_path_and_counts_the_rest(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b.py", "c.bin", ".hidden.txt", ".git/x.txt", "skip/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("text")
    found = find(tmp_path, exclude=["skip"])
    assert [source.name for source in found.sources] == ["a/b.py", "a/z.md", "b.txt"]
    assert found.left_out == 1
    assert [source.name for source in find(tmp_path, include=["bin", ".md"]).sources] == ["a/z.md", "c.bin"]
    assert [source.name for source in find(tmp_path, exclude=["a/*", "s*"]).sources] == ["b.txt"]


def test_a_file_found_by_two_inputs_is_taken_once(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    found = find(tmp_path / "b.txt", tmp_path, tmp_path / "*.txt")
    assert [source.name for source in found.sources] == ["b.txt", "a.txt"]


def test_globs_match_files_and_folders(tmp_path):
    for name in ("x1/a.txt", "x2/b.txt", "y/c.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("text")
    names = [source.path.name for source in find(tmp_path / "x*").sources]
    assert names == ["a.txt", "b.txt"]
    assert [source.path.name for source in find(tmp_path / "**/*.txt").sources] == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("given", ["gone.txt", "gone/*.txt", "s3://bucket/x"])
def test_missing_input_is_refused_by_name(given, tmp_path):
    with pytest.raises(InputError) as error:
        find_sources([given], [], [], tmp_path)
    assert_one_line(error, given)


def test_folder_without_known_files_is_refused_by_name(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\0")
    with pytest.raises(InputError) as error:
        find(tmp_path)
    assert_one_line(error, tmp_path, "data.include")


def test_output_inside_an_input_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError) as error:
        find(tmp_path, output=tmp_path / "out")
    assert_one_line(error, "data.output", tmp_path / "out")


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_jsonl_plain_and_packed_yield_the_same_documents(packing, tmp_path):
    plain = write_jsonl(tmp_path / "texts.jsonl", TEXTS).read_bytes()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packing]
    half = plain.index(b"\n", len(plain) // 2) + 1
    path = tmp_path / "packed" / f"texts.jsonl{packing}"
    path.parent.mkdir()
    path.write_bytes(pack(plain[:half]) + pack(plain[half:]))  # two members, as appending tools write
    assert read(path) == [text.encode() for text in TEXTS]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_damaged_packed_jsonl_is_refused_by_name(packing, damage, tmp_path):
    plain = write_jsonl(tmp_path / "texts.jsonl", TEXTS).read_bytes()
    packed = gzip.compress(plain) if packing == ".gz" else zstandard.compress(plain)
    path = tmp_path / f"broken.jsonl{packing}"
    path.write_bytes({"cut": packed[:-20], "garbage": b"garbage" + packed[7:], "empty": b""}[damage])
    with pytest.raises(InputError) as error:
        read(path)
    assert_one_line(error, path)


def test_bad_jsonl_records_are_counted_by_reason(tmp_path):
    lines = [b'{"text": "good"}', b"no json", b'["text"]', b'{"other": 1}', b'{"text": 5}', b"", b'{"text": "\xff"}']
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([*lines, rb'{"text": "\ud83d"}']))
    reasons = [BAD_JSON, BAD_JSON, NO_TEXT_FIELD, NO_TEXT_FIELD, UNDECODABLE, UNDECODABLE]
    assert read(path) == [b"good", *map(Rejected, reasons)]


def test_jsonl_without_the_text_field_is_refused_with_the_fields_that_are_there(tmp_path):
    path = write_jsonl(tmp_path / "texts.jsonl", TEXTS, field="content")
    with pytest.raises(InputError) as error:
        read(path)
    assert_one_line(error, path, "data.text_field", "'content'")
    assert read(path, text_field="content") == [text.encode() for text in TEXTS]


def test_tar_of_raw_text_is_read_by_sample(tmp_path):
    members = [(f"s/{n:03d}.{ending}", f"{n} {ending}".encode()) for n in range(5) for ending in ("json", "txt", "en")]
    path = write_tar(tmp_path / "raw.tar", [*members, ("s/005.json", b"{}")])
    assert read(path) == [*(f"{n} txt".encode() for n in range(5)), Rejected(NO_TEXT_FIELD)]
    assert read(path, text_field="en")[:5] == [f"{n} en".encode() for n in range(5)]


def test_tar_without_text_members_is_refused_with_the_members_that_are_there(tmp_path):
    path = write_tar(tmp_path / "raw.tar", [("a.jpg", b"x"), ("a.cls", b"1")])
    with pytest.raises(InputError) as error:
        read(path)
    assert_one_line(error, path, ".cls", "data.text_field")


def damaged_tars(whole):
    middle = whole.index(b"005.txt")
    yield "cut in a member", whole[: middle + 600]
    yield "cut at a member's end", whole[:middle]
    yield "cut in a header", whole[: middle + 100]
    yield "garbage header", whole[:middle] + b"\x99" * 512 + whole[middle + 512 :]
    yield "all garbage", b"\x99" * len(whole)
    yield "zeros", bytes(len(whole))
    yield "empty", b""


@pytest.mark.parametrize("damage", range(7))
def test_damaged_tar_is_refused_by_name_and_never_ends_quietly(damage, tmp_path):
    whole = write_tar(tmp_path / "raw.tar", [(f"{n:03d}.txt", b"x" * 700) for n in range(10)]).read_bytes()
    _, content = list(damaged_tars(whole))[damage]
    path = tmp_path / "broken.tar"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read(path)
    assert_one_line(error, path)


def test_jsonl_record_numbers_are_line_numbers(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n" + json.dumps({"text": "second line"}) + "\n")
    (source,) = find(path).sources
    assert list(read_documents(source, "text", 2**20)) == [(1, b"second line")]


def test_an_input_that_adds_no_file_is_refused_beside_others_that_do(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "empty").mkdir()
    for given in ("empty", "em*"):
        with pytest.raises(InputError) as error:
            find(tmp_path / "a.txt", tmp_path / given)
        assert_one_line(error, tmp_path / given, "data.include")
