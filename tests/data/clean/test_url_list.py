"""Lists of domains, addresses and words: equal to datatrove's URLFilter where its rules are the same.

python -m tests.data.clean.test_url_list      # records datatrove's verdicts anew, which needs tests/peers/datatrove.sh
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import pytest
import zstandard

pytest.importorskip("numba")
pytest.importorskip("ahocorasick_rs")

from tests.data.clean.addresses import LISTS, addresses
from tests.data.text.addressed import write_addressed
from tests.prepared import prepare
from trainer.config.clean import Clean, UrlList
from trainer.data.clean.document import CleanedDocument, Counted
from trainer.data.clean.url_list import NO_ADDRESS, ListedHashes, UrlListStage
from trainer.data.tokens.manifest import read_manifest
from trainer.errors import InputError

HERE = Path(__file__).parent
GOLDEN = HERE / "golden_addresses.json"
PEER = Path(tempfile.gettempdir()) / "banyan-peers" / "datatrove" / "bin" / "python"
REASONS = {  # datatrove's: ours
    "domain": "domain",
    "subdomain": "domain",
    "url": "url",
    "hard_blacklisted": "words",
    "soft_blacklisted": "soft_words",
    "blacklisted_subword": "substrings",
    "": "",
}
SEED = 1


def stage(folder: Path, **lists: list[str]) -> UrlListStage:
    files = {}
    for name, entries in (lists or LISTS).items():
        (folder / name).write_text("\n".join(entries) + "\n")
        files[name] = [str(folder / name)]
    return UrlListStage(UrlList(**files))


def judge(built: UrlListStage, url: str):
    document = CleanedDocument(Counted("text", "spaces"), url=url)
    return built(document), document


def ask_datatrove(asked: list[str]) -> list[str]:
    content = json.dumps({"lists": LISTS, "addresses": asked})
    script = HERE / "datatrove_addresses.py"
    done = subprocess.run([PEER, script], input=content, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def compare(folder: Path, asked: list[str], peer: list[str]) -> None:
    built = stage(folder)
    for url, reason in zip(asked, peer, strict=True):
        verdict, _ = judge(built, url)
        ours = "" if verdict is None else verdict.rule.partition(".")[2]
        assert ours == REASONS[reason], (url, reason)


def test_verdicts_equal_what_datatrove_said(tmp_path):
    recorded = json.loads(GOLDEN.read_text())
    assert set(recorded) == set(REASONS)
    compare(tmp_path, addresses(len(recorded), SEED), recorded)


@pytest.mark.skipif(not PEER.exists(), reason="datatrove isn't installed: tests/peers/datatrove.sh")
def test_verdicts_equal_datatroves(tmp_path):
    asked = addresses(2000, SEED + 1)
    compare(tmp_path, asked, ask_datatrove(asked))


@pytest.mark.parametrize(
    ("url", "rule", "detail"),
    [
        ("https://deep.below.casino-example.com/", "domain", "casino-example.com"),  # datatrove: only two levels
        ("https://BÜCHER-EXAMPLE.de/", "domain", "xn--bcher-example-wob.de"),
        ("https://other.example/CASINO", "words", "casino"),  # datatrove: in small letters only
        ("https://other.example/Cheap/FREE", "soft_words", "cheap, free"),
        ("//casino-example.com", "domain", "casino-example.com"),
        ("casino-example.com/page", "domain", "casino-example.com"),
        ("not an address", "", ""),
        ("http://[2001:db8::1]/", "", ""),
        ("http://", "", ""),
    ],
)
def test_what_is_read_otherwise_than_by_datatrove(tmp_path, url, rule, detail):
    verdict, _ = judge(stage(tmp_path), url)
    assert (verdict.rule.partition(".")[2], verdict.detail) == (rule, detail) if rule else verdict is None


def test_a_document_without_an_address_stays_and_is_counted(tmp_path):
    verdict, document = judge(stage(tmp_path), "")
    assert verdict is None
    assert document.changes == {NO_ADDRESS: 1}


def test_an_empty_list_is_refused_by_its_key(tmp_path):
    with pytest.raises(InputError, match=r"data\.clean\.url_list\.domains: .*domains lists nothing"):
        stage(tmp_path, domains=["", " "])


def test_a_million_entries_take_eight_bytes_each():
    listed = ListedHashes(f"{number}.example" for number in range(100_000))
    assert listed._hashes.nbytes == 800_000
    assert "99999.example" in listed
    assert "100000.example" not in listed


def test_documents_of_every_kind_are_judged_by_their_address(tmp_path):
    rows = [(f"text number {number}", f"https://www.host{number % 3}.example/{number}?a=b") for number in range(9)]
    folder = write_addressed(tmp_path / "in", rows)
    (tmp_path / "domains").write_text("host1.example\nexample.org\n")
    clean = Clean(stages=["url_list"], url_list=UrlList(domains=[str(tmp_path / "domains")]))
    output = prepare(folder, tmp_path / "out", clean=clean)
    manifest = read_manifest(output / "train")
    crawled = sum(count for domain, count in manifest.prepared["domains"].items() if domain == "example.org")
    assert crawled == len(rows)
    assert manifest.rejected["url_list.domain"] == 4 * 3 + crawled
    assert manifest.prepared["changed"][NO_ADDRESS] == 1  # {"text": "none", "url": 3}
    with zstandard.open(output / "rejected" / "url_list.domain.jsonl.zst", "rt") as file:
        first = json.loads(next(file))
    assert (first["url"], first["detail"]) == (rows[1][1], "host1.example")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(ask_datatrove(addresses(400, SEED)), indent=0) + "\n")
