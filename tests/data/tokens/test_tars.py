"""What tars of raw text hold: every member a document or counted, hostile ones refused."""

import io
import os
import subprocess
import tarfile
from collections import Counter

import pytest

from tests.data.text.reading import assert_refused, find, read, write_tar
from trainer.data.text.documents import read_documents
from trainer.data.text.filters import LINK, NO_TEXT_FIELD, OTHER_FORMAT, UNDECODABLE
from trainer.data.text.readers.webdataset import BESIDE
from trainer.data.text.reading import Account
from trainer.data.text.records import Rejected


def text_members(names):
    return [(name, f"text of {name}".encode()) for name in names]


def test_dotted_names_are_a_document_each(tmp_path):
    names = [*(f"2301.{n:05}.txt" for n in range(1, 2001)), *(f"readme{n}.txt" for n in range(5))]
    path = write_tar(tmp_path / "x.tar", text_members(names))
    assert read(path) == [f"text of {name}".encode() for name in names]


def test_names_with_dots_in_folders_and_upper_case_endings_are_read(tmp_path):
    names = ["v1.0/a.txt", "v1.1/a.txt", "v1.1/b.TXT", "v1.1/c.Text", "./d.txt", "e.f/g.h.txt"]
    path = write_tar(tmp_path / "x.tar", text_members(names))
    assert read(path) == [f"text of {name}".encode() for name in names]


def test_members_beside_the_text_are_counted(tmp_path):
    path = write_tar(tmp_path / "x.tar", text_members(["a.json", "a.txt", "a.cls", "b.txt", "c.json", "c.jpg"]))
    unused = Counter()
    (source,) = find(path).sources
    documents = [document for _, document in read_documents(source, Account(unused=unused))]
    assert documents == [b"text of a.txt", b"text of b.txt", Rejected(NO_TEXT_FIELD)]
    assert unused == {BESIDE: 3}


def test_what_webdataset_passes_over_is_counted_by_name(tmp_path):
    path = write_tar(tmp_path / "x.tar", text_members(["README", "a.txt", "__meta__", "__meta__/b.txt", ".hidden.txt"]))
    documents = read(path)
    assert [document for document in documents if isinstance(document, bytes)] == [b"text of a.txt"]
    rejected = [document for document in documents if isinstance(document, Rejected)]
    assert rejected == [Rejected(NO_TEXT_FIELD)] * 4
    assert "README" in str(rejected[0])


def test_links_and_devices_are_counted_and_never_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind, target in (
            ("a.txt", tarfile.REGTYPE, ""),
            ("b.txt", tarfile.SYMTYPE, "/etc/passwd"),
            ("c.txt", tarfile.LNKTYPE, "a.txt"),
            ("d.txt", tarfile.CHRTYPE, ""),
            ("e", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"text"))
    documents = read(tmp_path / "x.tar")
    assert Counter(documents) == {b"text": 1, Rejected(LINK): 3}


@pytest.mark.parametrize(
    "names", [["a.txt", "a.txt"], ["a.txt", "a.TXT"], ["a.json", "a.json", "a.txt"], ["a.txt", "a.__key__"]]
)
def test_samples_that_webdataset_refuses_are_refused(names, tmp_path):
    assert_refused(write_tar(tmp_path / "x.tar", text_members(names)), tmp_path / "x.tar", "WebDataset")


def test_a_sample_of_several_texts_is_refused_until_the_field_is_chosen(tmp_path):
    path = write_tar(tmp_path / "x.tar", text_members(["a.txt", "a.en.txt"]))
    assert_refused(path, path, "a.en.txt", "data.text_field=txt")
    assert read(path, text_field="txt") == [b"text of a.txt"]
    assert read(path, text_field="en.txt") == [b"text of a.en.txt"]
    assert read(path, text_field="EN.TXT") == [b"text of a.en.txt"]


def test_members_of_other_formats_are_never_documents(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.json", b'{"text": "a"}'), ("b.json", b'{"text": "b"}')])
    assert_refused(path, path, "JSON lines", text_field="json")
    path = write_tar(tmp_path / "y.tar", [("a.csv", b"x")])
    assert_refused(path, path, "csv", text_field="csv")
    path = write_tar(tmp_path / "z.tar", [("a.txt", b"<svg>"), ("b.txt", b'[{"a": 1}]'), ("c.txt", b"prose")])
    assert read(path) == [Rejected(OTHER_FORMAT), Rejected(OTHER_FORMAT), b"prose"]


def test_a_tar_without_one_text_that_is_utf8_is_refused_with_the_likely_encoding(tmp_path):
    content = "床前明月光，疑是地上霜。".encode("gb18030")
    path = write_tar(tmp_path / "x.tar", [("a.txt", content), ("b.txt", content)])
    assert_refused(path, path, "a.txt", "GB18030, a guess")
    path = write_tar(tmp_path / "y.tar", [("a.txt", content), ("b.txt", b"text")])
    assert read(path) == [Rejected(UNDECODABLE), b"text"]


def test_sparse_members_are_refused_by_name(tmp_path):
    with open(tmp_path / "holes.txt", "wb") as file:
        file.truncate(2**30)
    for form in ("gnu", "posix"):
        path = tmp_path / f"{form}.tar"
        command = ["tar", "--sparse", f"--format={form}", "-cf", path, "holes.txt"]
        subprocess.run(command, cwd=tmp_path, check=True)
        assert path.stat().st_size < 2**20
        assert_refused(path, path, "holes.txt", "sparse")


def pax_tar(path, headers, content=b"hello"):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size, info.pax_headers = len(content), headers
        archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.realsize": "100000000000"},
        {"GNU.sparse.map": "0,5", "GNU.sparse.size": "100000000000", "GNU.sparse.name": "b.txt"},
        *(
            {"size": size}
            for size in ("100000000000", "-512", "-1", "9" * 30, "9" * 5000, "1" * 30_000, "1 a" * 10_000)
        ),
        {"path": "x" * 2**21},
    ],
)
def test_sizes_that_members_only_claim_are_refused(headers, tmp_path):
    path = pax_tar(tmp_path / "x.tar", headers)
    assert_refused(path, path)


def test_endless_chains_of_headers_are_refused(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", 5
    path = tmp_path / "x.tar"
    path.write_bytes((info.tobuf(tarfile.GNU_FORMAT) + b"name\0".ljust(512, b"\0")) * 3000)
    assert_refused(path, path)
    info.type, info.size = b"x", 10**11
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    assert_refused(path, path)


def test_names_within_a_tar_cannot_break_a_line(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a\n\x1b[31m.txt", b"\xff"), (os.fsdecode(b"\xff.txt"), b"\xff")])
    assert_refused(path, r"a\x0a\x1b[31m.txt")
