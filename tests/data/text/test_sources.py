"""What inputs yield, and how broken ones are refused."""

import gzip
import json
import os
import re

import pytest
import zstandard

from tests.corpus import write_texts
from tests.data.text.reading import assert_one_line, find, read, write_tar
from tests.prepared import write_jsonl
from trainer.data.text.documents import read_documents
from trainer.data.text.filters import BAD_JSON, NO_TEXT_FIELD, UNDECODABLE
from trainer.data.text.records import Rejected
from trainer.data.text.sources import Input, find_sources
from trainer.errors import InputError

TEXTS = write_texts(30)


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
    names = [source.file_name for source in find(tmp_path / "x*").sources]
    assert names == ["a.txt", "b.txt"]
    assert [source.file_name for source in find(tmp_path / "**/*.txt").sources] == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("given", ["gone.txt", "gone/*.txt", "gone{1,2}.txt"])
def test_missing_input_is_refused_by_name(given, tmp_path):
    with pytest.raises(InputError) as error:
        find_sources([Input(given)], [], [], tmp_path)
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
    assert list(read_documents(source)) == [(1, b"second line")]


def test_an_input_that_adds_no_file_is_refused_beside_others_that_do(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "empty").mkdir()
    for given in ("empty", "em*"):
        with pytest.raises(InputError) as error:
            find(tmp_path / "a.txt", tmp_path / given)
        assert_one_line(error, tmp_path / given, "data.include")


# ---- links, hidden files and the like


def test_links_that_leave_the_folder_are_not_followed_but_counted(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "secret.txt"
    (folder / "sub").mkdir(parents=True)
    outside.write_text("a secret")
    (folder / "a.txt").write_text("a")
    (folder / "same.txt").symlink_to("a.txt")
    (folder / "sub" / "up.txt").symlink_to("../a.txt")
    (folder / "out.txt").symlink_to(outside)
    (folder / "sub" / "absolute.txt").symlink_to(outside.resolve())
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "circle").symlink_to(folder)
    (folder / "outside").symlink_to(tmp_path)
    for given in (folder, folder / "*", folder / "**" / "*", folder / "**" / "*.txt"):
        assert read(given) == [b"a"]
    found = find(folder)
    assert found.others.others == {"links that leave the folder or lead nowhere": 5}
    assert str(folder) in str(found.others)


def test_a_folder_and_a_file_that_are_links_themselves_are_followed_when_named(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("a")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "file.txt").symlink_to("real/a.txt")
    assert read(tmp_path / "folder") == read(tmp_path / "file.txt") == [b"a"]


def test_two_circles_of_links_end_a_glob_all_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    for name in ("one", "two", "three"):
        (tmp_path / name).symlink_to(".")
    assert [source.file_name for source in find(tmp_path / "**" / "*.txt").sources] == ["a.txt"]


def test_what_is_left_out_is_told_by_ending_and_by_why(tmp_path):
    for name in ("a.txt", "b.png", "c.png", "d.pdf", "LICENCE", ".hidden.txt", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    os.mkfifo(tmp_path / "pipe.txt")
    said = str(find(tmp_path).others)
    assert "4 files of other endings left out: 2 .png" in said
    assert "1 .pdf" in said
    assert "1 without ending" in said
    assert "2 hidden behind a leading dot" in said
    assert f"1 devices, pipes or sockets (first {tmp_path / 'pipe.txt'})" in said


def test_a_pipe_or_an_empty_name_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for given, part in ((str(tmp_path / "pipe.txt"), "pipe"), ("", "empty name"), ("x" * 5000, "no such file")):
        with pytest.raises(InputError) as error:
            find_sources([Input(given)], [], [], tmp_path)
        assert_one_line(error, part)


def test_json_lines_in_a_folder_are_found_by_content_where_the_name_leaves_it_open(tmp_path):
    line = b'{"text": "a"}\n'
    (tmp_path / "c4.json").write_bytes(line)
    (tmp_path / "c4.json.gz").write_bytes(gzip.compress(line.replace(b"a", b"b")))
    (tmp_path / "part-00000").write_bytes(line.replace(b"a", b"c"))
    (tmp_path / "package.json").write_text('{\n "name": "x"\n}\n')
    (tmp_path / "minified.json").write_text('{"name": "x"}')
    (tmp_path / "Makefile").write_text("all:")
    assert read(tmp_path) == [b"a", b"b", b"c"]
    assert find(tmp_path).left_out == 3


@pytest.mark.parametrize(
    "name", ["t.psv", "t.XLS", "p.xml", "p.xml.gz", "p.svg", "b.pdf", "b.docx", "x.tar.gz", "x.7z", "x.tar.xz"]
)
def test_what_cannot_be_read_is_refused_by_name_when_named_and_left_out_of_folders(name, tmp_path):
    (tmp_path / name).write_text("text")
    (tmp_path / "a.txt").write_text("a")
    assert read(tmp_path) == [b"a"]
    assert find(tmp_path).left_out == 1
    for given, include in ((tmp_path / name, []), (tmp_path / "*", []), (tmp_path, [os.path.splitext(name)[1]])):
        with pytest.raises(InputError) as error:
            find(given, include=include)
        assert_one_line(error, tmp_path / name, "can't be read yet")


def test_pieces_of_a_path_with_a_comma_are_refused_with_the_way_to_write_it(tmp_path):
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b" / "x.txt").write_text("x")
    with pytest.raises(InputError) as error:
        find_sources([Input(f"{tmp_path}/a"), Input("b")], [], [], tmp_path / "out")
    assert_one_line(error, f'data.input=["{tmp_path}/a,b"]')


# ---- names


@pytest.mark.parametrize(
    "name",
    [b"plain.txt", "文.txt".encode(), "三国".encode("gbk") + b".txt", b"a\\b\xff\n\x1b[31m.txt", b"\xed\xa0\x80.txt"],
)
def test_names_are_escaped_readably_and_can_be_had_back(name, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "w") as file:
        file.write("text")
    (source,) = find(tmp_path).sources
    assert source.name.isprintable()
    source.name.encode()
    assert unescape(source.name) == name
    assert read(tmp_path) == [b"text"]


def unescape(name):
    pieces = re.split(rb"\\(\\|x[0-9a-f]{2})", name.encode())
    return b"".join(bytes.fromhex(p[1:].decode()) if n % 2 and p != b"\\" else p for n, p in enumerate(pieces))


@pytest.mark.parametrize("name", ["hole.tar", "hole.jsonl.gz"])
def test_a_hole_behind_the_end_is_refused_and_not_read_for_hours(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".tar"):
        write_tar(path, [("a.txt", b"text")])
    else:
        path.write_bytes(gzip.compress(b'{"text": "text"}'))
    os.truncate(path, 2**40)
    with pytest.raises(InputError, match="zeros"):
        read(path)
