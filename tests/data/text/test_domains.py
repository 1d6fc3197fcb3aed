"""Domains of documents whose records have an address, counted as they are read."""

from collections import Counter

import pytest

from tests.data.text.addressed import write_addressed
from tests.prepared import prepare
from trainer.data.text.reading import domain_of, most_frequent
from trainer.data.tokens.manifest import read_manifest

ROWS = [(f"text number {number}", f"https://www.host{number % 3}.example/{number}?a=b") for number in range(9)]


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("https://www.Example.org/a", "example.org"),
        ("http://user:word@host:80/", "host"),
        ("https://例子.测试/路", "例子.测试"),
        ("ftp://example.org/", ""),
        ("https://<script>/", ""),
        ("https://a\x1b.org/", ""),
        ("https://" + "a" * 300, ""),
        (None, ""),
        (3, ""),
    ],
)
def test_the_domain_of_an_address(address, domain):
    assert domain_of(address) == domain


def test_equal_counts_are_kept_by_name_whoever_counted():
    assert most_frequent(Counter("bbaac"), 2) == most_frequent(Counter("caabb"), 2) == {"a": 2, "b": 2}


def test_records_of_every_kind_with_addresses_are_counted(tmp_path):
    folder = write_addressed(tmp_path / "in", ROWS)
    manifest = read_manifest(prepare(folder, tmp_path / "out") / "train")
    domains = manifest.prepared["domains"]
    crawled = {domain: count for domain, count in domains.items() if not domain.startswith("host")}
    assert [domains[f"host{number}.example"] for number in range(3)] == [12, 12, 12]
    assert sum(crawled.values()) == len(ROWS)
