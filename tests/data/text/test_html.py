"""HTML to text: what is kept, how a page's encoding is known, and pages that are made to hurt."""

import gzip
import logging
import sys
import time

import pytest

from tests.data.text.formats import PACK, page
from tests.data.text.reading import assert_refused, read
from trainer.data.text.filters import EMPTY, TOO_DEEP, TOO_LARGE, UNDECODABLE
from trainer.data.text.readers.html import MOST_DEPTH, nesting
from trainer.data.text.reading import Account
from trainer.data.text.records import Rejected

CHINESE = "这是一个很好的问题，我们不应该忘记过去的事情。"
LONG = "A sentence that is long enough to be taken for part of what the page is about, and not for its menu."


def text_of(content, tmp_path, **how):
    path = tmp_path / "page.html"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (document,) = read(path, **how)
    return document.decode() if isinstance(document, bytes) else document


def test_a_list_near_the_top_is_kept_and_a_menu_is_not(tmp_path):
    items = f"<ul><li>First: {LONG}</li><li>Second: {LONG}</li></ul>"
    for body in (items, f"<div>{items}</div>", f"<main><article>{items}</article></main>"):
        links = "<nav><ul><li><a href=/>Home</a></li><li><a href=/x>About</a></li></ul></nav>"
        text = text_of(f"<html><body>{links}{body}</body></html>", tmp_path)
        assert f"First: {LONG}" in text
        assert f"Second: {LONG}" in text
        assert "Home" not in text


def test_inline_elements_break_no_line_and_preformatted_text_keeps_its_own(tmp_path):
    code = "def f():\n    if x:\n        return 1"
    body = f"<article><p>{CHINESE}<em>测试</em>{CHINESE}<a href=x>链接</a>{CHINESE}</p><pre>{code}</pre></article>"
    text = text_of(f"<html><meta charset=utf-8><body>{body}</body></html>", tmp_path)
    assert text == f"{CHINESE}测试{CHINESE}链接{CHINESE}\n\n{code}"


def test_scripts_styles_comments_and_titles_are_no_text(tmp_path):
    head = "<title>TITLE</title><style>STYLE</style><script>SCRIPT</script>"
    body = f"<p>{LONG}</p><!-- COMMENT --><script>var SCRIPT</script><template>TEMPLATE</template>"
    assert text_of(f"<html><head>{head}</head><body>{body}</body></html>", tmp_path) == LONG


def test_the_other_library_is_chosen_by_the_setting(tmp_path):
    (tmp_path / "page.html").write_bytes(page(f"{LONG}\n\nAnother one. {LONG}"))
    account = Account()
    (document,) = read(tmp_path / "page.html", html="trafilatura", account=account)
    assert document.decode().split("\n") == [LONG, f"Another one. {LONG}"]
    assert account.changed == {"HTML to text by trafilatura": 1}
    assert logging.getLogger().level == logging.WARNING


@pytest.mark.parametrize(("html", "module"), [("resiliparse", "resiliparse"), ("trafilatura", "trafilatura")])
def test_a_missing_library_is_named_in_one_line(html, module, tmp_path, monkeypatch):
    (tmp_path / "page.html").write_bytes(page(LONG))
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert_refused(tmp_path / "page.html", module, 'pip install "banyan-train[data]"', html=html)


# ---- encodings


@pytest.mark.parametrize(
    ("declared", "codec"),
    [("gb2312", "gb18030"), ("GBK", "gb18030"), ("utf-8", "utf-8"), ("GB18030", "gb18030"), ("utf8", "utf-8")],
)
def test_a_page_is_decoded_as_it_declares(declared, codec, tmp_path):
    body = f"<body><p>{CHINESE * 3}</p></body>"
    for head in (f"<meta charset={declared}>", f'<META HTTP-EQUIV=x content="text/html; charset={declared}">'):
        assert text_of(f"<html><head>{head}</head>{body}</html>".encode(codec), tmp_path) == CHINESE * 3
    xml = f'<?xml version="1.0" encoding="{declared}"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml">'
    assert text_of(f"{xml}{body}</html>".encode(codec), tmp_path) == CHINESE * 3


def test_a_page_without_a_declaration_is_guessed_only_on_request_and_counted(tmp_path):
    content = f"<html><body><p>{CHINESE * 5}</p></body></html>".encode("gb18030")
    assert text_of(content, tmp_path) == Rejected(UNDECODABLE)
    account = Account()
    assert text_of(content, tmp_path, encoding="auto", account=account) == CHINESE * 5
    assert account.changed["decoded from gb18030"] == 1


def test_a_wrong_or_foolish_declaration_gives_way_to_utf8_and_else_the_page_is_rejected(tmp_path):
    for declared in ("klingon", "utf-16", "rot13", "unicode_escape", "idna", "gb18030" * 10):
        content = f"<html><meta charset={declared}><body><p>é {CHINESE * 3}</p></body></html>"
        assert text_of(content, tmp_path) == f"é {CHINESE * 3}"
        assert text_of(content.encode() + b"\xff", tmp_path) == Rejected(UNDECODABLE)
    assert text_of(f"<html><body><p>{LONG}\0</p></body></html>", tmp_path) == Rejected(UNDECODABLE)


# ---- made to hurt


@pytest.mark.parametrize("html", ["resiliparse", "trafilatura"])
@pytest.mark.parametrize(
    "content",
    [
        "<div>" * 10_000 + LONG,
        "<div>" * 10_000 + LONG + "</div>" * 10_000,
        "<b></i>" * 10_000 + LONG,
        "<div></b></b>" * 10_000 + LONG,
        "<table><tr><td>" * 10_000 + LONG,
        "<ul><li>" * 10_000 + LONG,
    ],
)
def test_ten_thousand_nested_elements_are_counted_and_no_work(content, html, tmp_path):
    assert text_of(f"<html><body>{content}</body></html>", tmp_path, html=html) == Rejected(TOO_DEEP)


@pytest.mark.parametrize(
    "content",
    [
        "<p>x" * 5000,
        "<br>" * 5000,
        "<ul>" + "<li>x" * 5000,
        "<b>x</b>" * 5000,
        "<table>" + "<tr><td>x" * 5000,
        "<" * 9999,
    ],
)
def test_many_elements_side_by_side_are_not_deep(content, tmp_path):
    assert nesting(content) <= MOST_DEPTH
    assert isinstance(text_of(f"<html><body><p>{LONG}</p>{content}</body></html>", tmp_path), str)


def test_html_of_200_megabytes_is_counted_and_not_held(tmp_path):
    with open(tmp_path / "page.html", "wb") as file:
        file.write(b"<html><body>")
        file.truncate(200_000_000)
    assert read(tmp_path, most_bytes=2**27) == [Rejected(TOO_LARGE)]


@pytest.mark.parametrize("ending", PACK)
def test_a_page_that_unpacks_without_end_is_counted(ending, tmp_path):
    (tmp_path / f"page.html.{ending}").write_bytes(PACK[ending](b"<html>" + bytes(2**26)))
    assert read(tmp_path / f"page.html.{ending}") == [Rejected(TOO_LARGE)]


def test_pages_without_text_are_empty(tmp_path):
    for content in ("", "<html></html>", "<html><body><script>x</script></body></html>", "<html><frameset></html>"):
        assert text_of(content, tmp_path) == Rejected(EMPTY)


def test_damaged_archives_of_html_are_refused(tmp_path):
    (tmp_path / "page.html.gz").write_bytes(gzip.compress(page(LONG))[:-20])
    assert_refused(tmp_path, "page.html.gz", "cut short")


@pytest.mark.parametrize(
    ("declared", "codec", "text"),
    [
        *((label, "gb18030", CHINESE) for label in ("x-gbk", "GB_2312-80", "cp936")),
        *((label, "cp932", "これは日本語です。") for label in ("Shift-JIS", "x-sjis", "windows-31j")),
        *((label, "cp949", "한국어 글입니다.") for label in ("ks_c_5601-1987", "euc_kr", "windows-949")),
        *((label, "cp950", "這是中文。") for label in ("cn-big5", "x-x-big5")),
        ("x-euc-jp", "euc_jp", "これは日本語です。"),
        ("iso-2022-jp", "iso2022_jp", "これは日本語です。"),
    ],
)
def test_a_page_is_decoded_by_any_name_that_browsers_know(declared, codec, text, tmp_path):
    html = f"<html><head><meta charset={declared}></head><body><p>{text * 9}</p></body></html>"
    assert text_of(html.encode(codec), tmp_path) == text * 9


def test_a_comment_before_the_page_makes_no_prose_of_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"<!-- saved from url=(0014)about:internet -->\r\n" + page(LONG))
    assert read(tmp_path / "a.txt") == [LONG.encode()]


@pytest.mark.parametrize("html", ["resiliparse", "trafilatura"])
def test_a_page_of_millions_of_elements_is_counted_and_no_tree(html, tmp_path):
    (tmp_path / "page.html").write_bytes(b"<html><body>" + b"<p>x" * 2**20)
    begun = time.process_time()
    assert read(tmp_path / "page.html", most_bytes=2**27, html=html) == [Rejected(TOO_LARGE)]
    assert time.process_time() - begun < 2
