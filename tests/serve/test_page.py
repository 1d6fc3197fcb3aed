"""The page in Chromium, on a real server: answers stream in, stop stops, it works by keys and lets nothing in."""

import base64
import hashlib
import html.parser
import json
import re
import time
import urllib.request

import pytest
import torch

from tests.hf_folder import make_folder
from tests.serve.browser import browser
from tests.serve.running import running
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.serve.page import page_with_headers

KEY = "a-key-of-the-test"
CONTEXT = 32768  # for an answer that lasts until it is stopped
HOSTILE = "# Card\n<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\n"


class Tags(html.parser.HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def endless(folder):
    """A model whose likeliest token is never an end, be it of the text or of a turn."""
    model = make_folder(folder, max_position_embeddings=CONTEXT)
    with torch.no_grad():
        for end in load_tokenizer(folder).special_ids.values():
            model.lm_head.weight[end] = 0
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    endless(folder / "model")
    (folder / "model" / "README.md").write_text(HOSTILE)
    (folder / "keys").write_text(f"{KEY}\n")
    (folder / "keys").chmod(0o600)
    with running(folder / "model", "serve.engine=torch", f"serve.keys={folder / 'keys'}", log=folder / "log") as found:
        yield found


@pytest.fixture(scope="module")
def tab(server, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        found.show_as()
        found.open(server.address + "/")
        yield found


def focused(tab):
    return tab.run("document.activeElement.id")


def last(tab):
    return tab.run("document.querySelector('.turn:last-of-type').innerText")


def set_knob(tab, name, value):
    tab.run(f"document.getElementById({name!r}).value = {json.dumps(value)}")


def enter_key(tab):
    """Asked for, typed and taken."""
    tab.wait("document.getElementById('error').textContent || document.getElementById('card').textContent")
    tab.run("document.getElementById('access').open = true; document.getElementById('key').focus()")
    set_knob(tab, "key", KEY)
    tab.press("Enter")
    tab.run("document.getElementById('key').dispatchEvent(new Event('change'))")
    tab.wait("document.getElementById('card').textContent")
    tab.run("document.getElementById('prompt').focus()")


def test_it_is_one_file_that_fetches_nothing():
    content, headers = page_with_headers()
    tags = Tags()
    tags.feed(content.decode())
    for tag, attributes in tags.found:
        assert tag not in ("link", "iframe", "object", "img")
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes), tag
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    for tag in ("script", "style"):
        [inside] = re.findall(f"<{tag}>(.*?)</{tag}>", content.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert not re.search(r"https?://|innerHTML|localStorage|sessionStorage|document\.cookie", content.decode())


def test_every_field_has_a_label():
    tags = Tags()
    tags.feed(page_with_headers()[0].decode())
    labelled = {attributes["for"] for tag, attributes in tags.found if tag == "label" and "for" in attributes}
    fields = [a for tag, a in tags.found if tag in ("input", "textarea") and a.get("type") != "radio"]
    assert len(fields) > 6
    assert {attributes["id"] for attributes in fields} <= labelled


def test_the_page_comes_without_a_key_and_the_card_does_not(server):
    with urllib.request.urlopen(server.address + "/", timeout=30) as answer:
        assert answer.read() == page_with_headers()[0]
        assert answer.headers["Content-Security-Policy"] == page_with_headers()[1]["Content-Security-Policy"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(server.address + "/card", timeout=30)


def test_a_person_asks_sees_the_answer_come_stops_it_and_goes_on(tab):
    tab.wait("document.getElementById('error').textContent.includes('key')")
    assert tab.run("document.getElementById('access').open")
    enter_key(tab)
    assert tab.run("document.getElementById('card').textContent") == HOSTILE
    assert tab.run("document.title") == "Banyan"
    # Shift+Enter is a line, the tokens are counted, Enter sends
    tab.type("the tree")
    tab.press("Enter", shift=True)
    tab.type("grows <b>")
    assert tab.run("document.getElementById('prompt').value") == "the tree\ngrows <b>"
    tab.wait("/^\\d+ tokens of 32768$/.test(document.getElementById('count').textContent)")
    set_knob(tab, "max_tokens", "30000")
    set_knob(tab, "temperature", "0")
    tab.press("Enter")
    tab.wait("document.querySelectorAll('.turn').length === 2")
    tab.wait("document.querySelector('.turn:last-of-type p').textContent.length > 5")
    early = len(last(tab))
    tab.wait(f"document.querySelector('.turn:last-of-type').innerText.length > {early + 20}")  # it streams
    assert tab.run("document.querySelector('.turn:last-of-type').getAttribute('aria-busy')") == "true"
    tab.press("Escape")
    tab.wait("document.querySelector('.turn:last-of-type small')")
    assert last(tab).endswith("stopped")
    assert "stopped" in tab.run("document.getElementById('status').textContent")
    assert focused(tab) == "prompt"
    # what follows is a chat of three turns, cut at its most tokens
    set_knob(tab, "temperature", "1")
    set_knob(tab, "max_tokens", "4")
    tab.type("and then")
    tab.press("Enter")
    tab.wait("document.querySelectorAll('.turn small').length === 2")
    assert "4 tokens, first after" in last(tab)
    assert "cut at most tokens" in last(tab)
    assert tab.run("document.title") == "Banyan"


def test_a_stopped_answer_frees_its_slot(server):
    end = time.monotonic() + 10  # Chromium's network process may close the connection a little later

    def counts(name):
        return dict(
            re.findall(rf'^vllm:{name}{{(?:finished_reason="(\w+)",)?[^}}]*}} ([0-9.]+)$', server.scrape(KEY), re.M)
        )

    while counts("num_requests_running") != {"": "0.0"}:
        assert time.monotonic() < end, server.scrape(KEY)
        time.sleep(0.05)
    assert counts("request_success_total") == {"abort": "1.0", "length": "1.0"}


def test_a_completion_is_shown_behind_its_prompt_and_a_seed_repeats_it(tab):
    tab.run("document.getElementById('clear').click(); document.querySelector('input[value=completion]').click()")
    set_knob(tab, "seed", "7")
    texts = []
    for _ in range(2):
        set_knob(tab, "prompt", "the tree")
        before = tab.run("document.querySelectorAll('.turn small').length")
        tab.run("document.getElementById('prompt').focus()")
        tab.press("Enter")
        tab.wait(f"document.querySelectorAll('.turn small').length > {before}")
        texts.append(tab.run("document.querySelector('.turn:last-of-type p').textContent"))
    assert texts[0] == texts[1]
    assert texts[0].startswith("the tree")
    assert len(texts[0]) > len("the tree")


def test_a_refusal_is_shown_and_nothing_is_lost(tab):
    tab.run("document.getElementById('clear').click(); document.querySelector('input[value=chat]').click()")
    set_knob(tab, "temperature", "-3")
    set_knob(tab, "prompt", "the tree")
    tab.run("document.getElementById('prompt').focus()")
    tab.press("Enter")
    tab.wait("document.getElementById('error').textContent.includes('temperature')")
    assert tab.run("document.getElementById('prompt').value") == "the tree"
    assert tab.run("document.querySelectorAll('.turn').length") == 0
    set_knob(tab, "temperature", "0.8")


def test_tab_leads_from_the_message_through_every_control(tab):
    tab.run("document.getElementById('prompt').focus()")
    seen = []
    for _ in range(30):
        tab.press("Tab")
        seen.append(tab.run("document.activeElement.id || document.activeElement.textContent.trim()"))
    wanted = [
        "clear",
        "send",
        "Sampling",
        "temperature",
        "top_p",
        "max_tokens",
        "seed",
        "stops",
        "system",
        "Key",
        "key",
    ]
    places = [seen.index(name) for name in wanted]
    assert places == sorted(places)
    assert "Model card" in seen


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_light_and_dark(tab, tmp_path, dark):
    tab.show_as(width=390, height=844, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") <= 390
    small = tab.run(
        "[...document.querySelectorAll('button, summary, input:not([type=radio]), textarea')]"
        ".filter((e) => e.offsetParent && e.getBoundingClientRect().height < 36).map((e) => e.id || e.textContent)"
    )
    assert small == []
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    red = int(re.search(r"\d+", ground)[0])
    assert (red < 60) == dark
    assert tab.picture(tmp_path / "phone.png").stat().st_size > 5000
    tab.show_as()


def test_the_browser_has_nothing_to_complain_about_but_refusals(tab):
    assert all("40" in text and "Failed to load resource" in text for text in tab.complaints), tab.complaints
