"""Wikipedia's dumps and EPUB: what of them is text, what is left out, and files that are broken or made to hurt."""

import bz2
import gzip
import io
import resource
import sys
import zipfile

import pytest

from tests.data.text.formats import epub, page, wikipedia
from tests.data.text.reading import assert_refused, find, read
from trainer.data.text.documents import read_documents
from trainer.data.text.filters import EMPTY, OTHER_FORMAT, TOO_DEEP, TOO_LARGE
from trainer.data.text.readers.wikipedia import OTHER_NAMESPACE, REDIRECT
from trainer.data.text.reading import Account
from trainer.data.text.records import Rejected


def article(markup, tmp_path):
    (tmp_path / "dump.xml").write_bytes(wikipedia([markup]))
    (document,) = read(tmp_path / "dump.xml")
    return document.decode() if isinstance(document, bytes) else document


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Banyan''' is a [[tree|kind of tree]].", "Banyan is a kind of tree."),
        ("[[File:a.jpg|thumb|A caption with a [[link]]]]Text.", "Text."),
        ("[[Datei:a.jpg|mini|Eine Unterschrift]]Text.", "Text."),
        ("[[image: a.jpg|thumb|left|A caption]]\n\n\n\nText.", "Text."),
        ("[[Category:Trees]]Text.[[category:Plants]]", "Text."),
        ("[[Tree: a story]] stays.", "Tree: a story stays."),
        ("Before.\n{| class=x\n! head\n|-\n| cell || cell\n|}\nAfter.", "Before.\n\nAfter."),
        ("Text.<ref>A source.</ref> More.<ref name=x/>", "Text. More."),
        ("{{Infobox|name=x|born={{date|1}}}}Text.", "Text."),
        ("Text.<!-- a note --> More.<!-- not closed", "Text. More. not closed"),
        ("== Heading ==\nText.", "Heading \nText.".replace(" \n", "\n")),
        ("<gallery>\na.jpg|caption\n</gallery>Text.", "Text."),
        ("如'''测试'''版", "如测试版"),
    ],
)
def test_markup_is_taken_out_with_what_stands_for_no_text(markup, text, tmp_path):
    assert article(markup, tmp_path).strip() == text


def test_redirects_and_other_namespaces_are_counted_as_left_out(tmp_path):
    extra = "<page><title>Talk:x</title><ns>1</ns><revision><text>talk</text></revision></page>"
    extra += "<page><title>y</title><ns>0</ns><redirect title='z'/><revision><text>#R [[z]]</text></revision></page>"
    extra += "<page><title>e</title><ns>0</ns><revision><text>{{x}}</text></revision></page>"
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(wikipedia(["one", "two"], extra)))
    account = Account()
    assert read(tmp_path / "dump.xml.bz2", account=account) == [b"one", b"two", Rejected(EMPTY)]
    assert account.unused == {OTHER_NAMESPACE: 1, REDIRECT: 1}


@pytest.mark.parametrize(
    "markup",
    ["{{" * 10_000, "[[" * 10_000, "{|\n" * 10_000, "<ref>" * 10_000, "<!--\n{|\n|" * 10_000, "[http://a " * 10_000],
)
def test_ten_thousand_open_brackets_are_counted_and_no_work(markup, tmp_path):
    assert article(markup + "text", tmp_path) == Rejected(TOO_DEEP)


def test_many_brackets_side_by_side_are_not_deep(tmp_path):
    for markup in (
        "{{a|b}}" * 3000,
        "[[a]]" * 3000,
        "x<br>" * 3000,
        "<ref name=a/>" * 3000,
        "[http://a b] " * 3000,
        "]" * 3000,
    ):
        assert article(f"Text. {markup}", tmp_path).startswith("Text.")


def test_dumps_that_are_cut_or_hostile_are_refused_in_one_line(tmp_path):
    whole = wikipedia(["one", "two"])
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
    )
    for content in (whole[:-30], whole.replace(b"</title>", b"", 1), b"<mediawiki"):
        (tmp_path / "dump.xml").write_bytes(content)
        assert_refused(tmp_path / "dump.xml", "dump.xml", "no whole XML")
    (tmp_path / "dump.xml").write_bytes(bomb + b"]>" + whole.replace(b"one", b"&j;"))
    assert_refused(tmp_path / "dump.xml", "dump.xml", "no whole XML")
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(whole)[:-10])
    assert_refused(tmp_path / "dump.xml.bz2", "cut short", format="wikipedia")


def test_xml_that_is_no_dump_is_no_source(tmp_path):
    (tmp_path / "a.xml").write_text("<x>prose</x>")
    (tmp_path / "b.svg").write_text("<svg><text>prose</text></svg>")
    (tmp_path / "c.xml").write_bytes(wikipedia(["one"]))
    (tmp_path / "d.xml.gz").write_bytes(b"broken")
    assert [source.name for source in find(tmp_path).sources] == ["c.xml"]
    assert find(tmp_path).left_out == 3
    for name in ("a.xml", "b.svg"):
        assert_refused(tmp_path / name, name, "by its name")


@pytest.mark.parametrize("where", ["in a page", "in its text", "outside", "in a tag", "in a comment", "nested"])
def test_a_dump_that_unpacks_without_end_is_counted_or_refused_and_never_held(where, tmp_path):
    before, unit, after = {
        "in a page": ("<page><title>t</title>", "<a/>", "</page>"),
        "in its text": ("<page><title>t</title><revision><text>", "{{a}} b\n", "</text></revision></page>"),
        "outside": ("", "<a>text</a>", ""),
        "in a tag": ("<page a='", "aaaa", "'></page>"),
        "in a comment": ("<!--", "aaaa", "-->"),
        "nested": ("<page>", "<a>", ""),
    }[where]
    mark, size = "</siteinfo>", 40_000_000 if unit == "aaaa" else 12_000_000
    head, tail = wikipedia(["one"]).decode().split(mark)
    content = f"{head}{mark}{before}{unit * (size // len(unit))}{after}{tail}".encode()
    (tmp_path / "dump.xml.gz").write_bytes(gzip.compress(content, 1))
    held = memory_taken()
    (source,) = find(tmp_path / "dump.xml.gz").sources
    if where in ("in a tag", "in a comment", "nested"):
        assert_refused(tmp_path / "dump.xml.gz", "dump.xml.gz", "no whole XML")
    else:
        first = {"in a page": [Rejected(EMPTY)], "in its text": [Rejected(TOO_LARGE)], "outside": []}[where]
        assert [document for _, document in read_documents(source)] == [*first, b"one"]
    assert memory_taken() - held < 150e6


def memory_taken():
    """The most memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- books


def write_book(tmp_path, content):
    (tmp_path / "a.epub").write_bytes(content)
    return tmp_path / "a.epub"


def test_a_book_is_one_document_in_reading_order(tmp_path):
    assert read(write_book(tmp_path, epub(["One.", "二。", "Three."]))) == ["One.\n\n二。\n\nThree.".encode()]
    parts = io.BytesIO()
    with zipfile.ZipFile(parts, "w") as archive, zipfile.ZipFile(tmp_path / "a.epub") as book:
        for name in book.namelist():
            archive.writestr(name, book.read(name).replace(b'.xhtml" media', b'.xhtml#top" media'))
    account = Account()
    assert read(write_book(tmp_path, parts.getvalue()), account=account) == ["One.\n\n二。\n\nThree.".encode()]
    assert account.changed == {"books of EPUB to text": 1}


def test_what_stands_beside_the_chapters_is_left_out(tmp_path):
    content = epub(["One.", "Contents", "Two."])
    book = zipfile.ZipFile(io.BytesIO(content))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name in book.namelist():
            text = book.read(name)
            archive.writestr(
                name, text.replace(b'<itemref idref="c8.xhtml"/>', b'<itemref idref="c8.xhtml" linear="no"/>')
            )
    assert read(write_book(tmp_path, changed.getvalue())) == [b"One.\n\nTwo."]


def test_books_that_cannot_be_read_are_refused_if_named_and_counted_in_folders(tmp_path):
    whole = epub(["One."])
    encrypted = epub(
        ["One."], **{"META-INF__encryption_xml": '<e xmlns="x"><CipherReference URI="OEBPS/text/c9.xhtml"/></e>'}
    )
    fonts = epub(["One."], **{"META-INF__encryption_xml": '<e xmlns="x"><CipherReference URI="fonts/a.otf"/></e>'})
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    for content in (whole[: len(whole) // 2], b"no zip", encrypted, empty.getvalue(), whole.replace(b"c9", b"c7", 1)):
        path = write_book(tmp_path, content)
        try:
            documents = read(path)
        except Exception:
            assert_refused(path, "a.epub", "can't be read as a book")
            documents = read(tmp_path)
        assert documents in ([Rejected(OTHER_FORMAT)], [b"One."])
    assert read(write_book(tmp_path, fonts)) == [b"One."]


def test_a_book_that_unpacks_without_end_is_counted(tmp_path):
    path = write_book(tmp_path, epub([page("x") + bytes(2**26)]))
    assert path.stat().st_size < 2**18
    assert read(path) == [Rejected(TOO_LARGE)]
    many = epub([page(f"{number} " + "x " * 2**17) for number in range(10)])
    assert read(write_book(tmp_path, many)) == [Rejected(TOO_LARGE)]


@pytest.mark.parametrize(("module", "name"), [("lxml", "a.epub"), ("mwparserfromhell", "dump.xml")])
def test_a_missing_library_is_named_in_one_line(module, name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(epub(["One."]) if name == "a.epub" else wikipedia(["one"]))
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    assert_refused(tmp_path / name, module, 'pip install "banyan-train[data]"')
