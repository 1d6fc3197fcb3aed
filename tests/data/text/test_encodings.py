"""Encodings: named, marked or, on request, guessed and counted; never guessed silently."""

import json
import sys

import pytest

from tests.data.text.reading import assert_refused, read
from trainer.data.text.encodings import ENCODINGS, detected_encoding
from trainer.data.text.filters import UNDECODABLE
from trainer.data.text.reading import Account
from trainer.data.text.records import Rejected

CHINESE = "这是一个很好的问题，我们不应该忘记过去的事情。床前明月光，疑是地上霜。举头望明月，低头思故乡。"
TRADITIONAL = "他說這是一個很好的問題，我們不應該忘記過去的事情。學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
GUESSED = [("gb18030", CHINESE), ("big5", TRADITIONAL), ("windows-1251", RUSSIAN), ("koi8-r", RUSSIAN)]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_that_may_be_named_is_read(encoding, tmp_path):
    text = "text é" if encoding not in ("windows-1251", "koi8-r") else "text да"
    text = text.encode(ENCODINGS[encoding], "ignore").decode(ENCODINGS[encoding])
    (tmp_path / "a.txt").write_bytes(text.encode(ENCODINGS[encoding]))
    (tmp_path / "b.jsonl").write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode(ENCODINGS[encoding]))
    assert read(tmp_path, encoding=encoding) == [text.encode()] * 2


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_with_its_mark_is_read_and_counted_and_without_it_only_if_named(codec, tmp_path):
    text = CHINESE if codec == "utf-16" else "\ufeff" + CHINESE
    (tmp_path / "a.txt").write_bytes(text.encode(codec))
    account = Account()
    assert read(tmp_path, account=account) == [CHINESE.encode()]
    assert account.changed == {"decoded from utf-16": 1}
    (tmp_path / "a.txt").write_bytes(CHINESE.encode("utf-16-le"))
    assert read(tmp_path) == [Rejected(UNDECODABLE)]
    assert read(tmp_path, encoding="utf-16") == [CHINESE.encode()]


@pytest.mark.parametrize(("encoding", "text"), GUESSED)
def test_others_are_guessed_on_request_alone_and_counted(encoding, text, tmp_path):
    content = text.encode(ENCODINGS[encoding])
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.jsonl").write_bytes(
        b"".join(b'{"text": "%s"}\n' % content for _ in range(20))
        if encoding != "big5"
        else b"".join(
            json.dumps({"text": text}, ensure_ascii=False).encode(ENCODINGS[encoding]) + b"\n" for _ in range(20)
        )
    )
    assert_refused(tmp_path / "a.txt", "not UTF-8 text", "data.encoding")
    assert_refused(tmp_path / "b.jsonl", "undecodable", "data.encoding")
    account = Account()
    assert read(tmp_path, encoding="auto", account=account) == [text.encode()] * 21
    assert account.changed == {f"decoded from {encoding}": 21}


def test_utf8_stays_utf8_when_guessing_is_allowed(tmp_path):
    for text in ("plain ascii", CHINESE, "é", "\ufeffmarked", "x" * 2**18 + "中"):
        (tmp_path / "a.txt").write_text(text)
        account = Account()
        assert read(tmp_path, encoding="auto", account=account) == [text.removeprefix("\ufeff").encode()]
        assert not account.changed
    assert detected_encoding("中".encode()[:-1]) is None


@pytest.mark.parametrize("times", [0, 1, 3, 10])
@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        *GUESSED,
        ("shift_jis", "この関数は値を返しません。"),
        ("euc-jp", "この関数は値を返しません。"),
        ("euc-kr", "이 함수는 값을 반환하지 않습니다."),
    ],
)
def test_a_guess_is_right_where_much_english_stands_around(encoding, text, times):
    code = 'fn main() { let x: i32 = 5; println!("{}", x); } // ' * times
    assert detected_encoding(f"{code}{text}\n{code}{text}".encode(ENCODINGS[encoding])) == encoding


def test_bytes_that_are_no_character_reject_their_document_alone(tmp_path):
    lines = [json.dumps({"text": f"{number} {CHINESE}"}, ensure_ascii=False).encode("gb18030") for number in range(5)]
    lines[2] = lines[2][:20] + b"\xff\xff" + lines[2][20:]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents = read(tmp_path, encoding="gb18030")
    assert [isinstance(document, bytes) for document in documents] == [True, True, False, True, True]
    assert documents[2] == Rejected(UNDECODABLE)
    for broken, encoding in (
        (b"a\0b", "utf-16"),
        ("中".encode("utf-16") + b"\x00\xd8", "utf-16"),
        (b"\x81", "gb18030"),
    ):
        (tmp_path / "a.jsonl").unlink(missing_ok=True)
        (tmp_path / "a.txt").write_bytes(broken)
        assert read(tmp_path, encoding=encoding) == [Rejected(UNDECODABLE)]


def test_the_missing_library_that_guesses_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(bytes(range(128, 256)))  # which looks like no language
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    assert_refused(tmp_path, "charset_normalizer", 'pip install "banyan-train[data]"', encoding="auto")


@pytest.mark.parametrize("named", ["gb18030", "utf-16", "windows-1251", "auto"])
@pytest.mark.parametrize("marked", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_goes_before_the_encoding_that_is_named(marked, named, tmp_path):
    html = f"<html><body><p>{CHINESE * 3}</p></body></html>"
    lines, table = json.dumps({"text": CHINESE}, ensure_ascii=False), f"id,text\n1,{CHINESE}\n"
    for name, content in {"a.txt": CHINESE, "b.jsonl": lines, "c.csv": table, "d.html": html}.items():
        (tmp_path / name).write_bytes(content.encode(marked))
    assert read(tmp_path, encoding=named) == [*[CHINESE.encode()] * 3, (CHINESE * 3).encode()]
