"""The page of an explanation: it needs nothing else, nothing of a prompt is markup, and it stays small."""

import html.parser
import json
import os
import re
import time
import zlib

import pytest

from tests.hf_folder import make_folder
from tests.run_ranks import start_ranks
from trainer.config import Explain
from trainer.report.explanation.picture import map_as_uri
from trainer.report.frame import POLICY
from trainer.verbs.explain import main

HOSTILE = (
    "</td></main><script>alert(1)</script> <img src=https://x.example/p onerror=alert(2)> "
    "\u202eevil\x1b[31m\x00\n\t&lt;"
)


class Tags(html.parser.HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.open = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "hf"
    make_folder(folder, max_position_embeddings=4096)
    return folder


def made(folder, output, prompt, **settings):
    assert main(Explain(path=str(folder), output=str(output), prompt=prompt, **settings)) == 0
    return (output / "explain.html").read_text(), json.loads((output / "explain.json").read_text())


def test_nothing_of_a_prompt_is_markup_and_nothing_is_fetched(hf_folder, tmp_path):
    text, record = made(hf_folder, tmp_path, f"the {HOSTILE} tree")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert {tag for tag, _ in tags.found}.isdisjoint(("script", "link", "iframe", "object", "form"))
    assert any(attributes.get("content") == f"{POLICY}; img-src data:" for _, attributes in tags.found)
    for tag, attributes in tags.found:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:image/png").startswith("data:image/png"), tag
        assert attributes.get("href", "#").startswith("#")
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
    assert record["prompt"] == f"the {HOSTILE} tree"


def test_it_works_by_keyboard_and_every_link_leads_somewhere(hf_folder, tmp_path):
    text, record = made(hf_folder, tmp_path, "the tree grows many trunks")
    tags = Tags()
    tags.feed(text)
    ids = {attributes["id"] for _, attributes in tags.found if "id" in attributes}
    links = [attributes["href"][1:] for tag, attributes in tags.found if tag == "a"]
    assert len(links) == 2 * len(record["tokens"])
    assert set(links) <= ids
    figures = [attributes for tag, attributes in tags.found if tag == "figure"]
    assert len(figures) == sum(len(layer["heads"]) for layer in record["attention"]["layers"])
    assert all(attributes["tabindex"] == "0" for attributes in figures)
    assert all(attributes["alt"] for tag, attributes in tags.found if tag == "img")
    assert '<meta name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_of_a_long_prompt_is_bounded_and_says_so(hf_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trainer.explain.readings.MOST_MAP_VALUES", 2000)
    text, record = made(hf_folder, tmp_path, "the tree grows many trunks and " * 180)
    tokens, first = len(record["tokens"]), record["attention"]["first_position"]
    assert tokens > 2000
    assert tokens - first == int((2 * 2000 / 8) ** 0.5)  # of 8 heads in all
    assert record["lens"]["first_position"] == tokens - 128
    assert len(text) < 2_000_000
    assert f"The first {tokens - 2000:,} tokens are left out here" in text
    said = capsys.readouterr().out
    assert "lens       of the last 128 tokens" in said
    assert f"attention  of the last {tokens - first:,} tokens" in said


def explain_stuck(argument):
    """The verb, stuck when the page is written but has no name yet: the moment at which it is killed."""
    folder, output = argument
    replace = os.replace

    def stuck(source, target):
        if str(target).endswith("explain.html"):
            output.with_name("stuck").touch()
            time.sleep(600)
        replace(source, target)

    os.replace = stuck
    return main(Explain(path=str(folder), output=str(output), prompt="the tree grows"))


def test_killed_while_it_writes_no_half_page_is_there_and_the_same_command_makes_it(hf_folder, tmp_path):
    ranks = start_ranks(explain_stuck, (hf_folder, tmp_path / "out"), 1)
    deadline = time.monotonic() + 120
    while not (tmp_path / "stuck").exists():
        assert time.monotonic() < deadline
        assert ranks.processes[0].is_alive()
        time.sleep(0.01)
    ranks.kill()
    assert not (tmp_path / "out" / "explain.html").exists()
    json.loads((tmp_path / "out" / "explain.json").read_text())
    text, _ = made(hf_folder, tmp_path / "out", "the tree grows")
    assert text.endswith("</html>\n")


def test_a_map_is_a_picture_of_its_values():
    import base64

    uri = map_as_uri([[1.0], [0.25, 0.75]], [0.0, 0.0])
    content = base64.b64decode(uri.partition(",")[2])
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    begin = content.index(b"IDAT") + 4
    pixels = zlib.decompress(content[begin : content.index(b"IEND") - 8])
    assert list(pixels) == [0, 0, 63, 0, 0, 0, 32, 55]  # a filter, then by square roots of 63
