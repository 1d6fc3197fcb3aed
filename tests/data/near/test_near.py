"""Near-duplicates: what theory says is found, exactly compared, one stays of each cluster, the same for any workers."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("numba")

from tests.benchmarks.near import plant_pairs
from tests.prepared import configure, prepare, shard_files, write_jsonl
from trainer.config.near import Near
from trainer.data.near.candidates import FindCandidates, _pairs
from trainer.data.near.clusters import _roots
from trainer.data.near.minhash import Scheme, estimated, jaccard, shingles, signature
from trainer.data.text.document_store import ROW
from trainer.data.text.near_dropped import MEMBER, is_dropped, read_near_record
from trainer.data.tokens.manifest import read_manifest
from trainer.errors import ConfigError
from trainer.verbs.prepare import main

SCHEME = Scheme(words=5, bands=14, rows=8)
WORDS = [f"{first}{second}" for first in ["stone", "river", "light", "paper", "glass"] for second in range(200)]


def text(draw: random.Random, count: int = 300) -> list[str]:
    return draw.choices(WORDS, k=count)


def changed(draw: random.Random, words: list[str], share: float) -> str:
    return " ".join(draw.choice(WORDS) if draw.random() < share else word for word in words)


def test_signatures_estimate_the_similarity_without_bias():
    draw = random.Random(1)
    for share in (0.02, 0.05, 0.1):
        errors, exact = [], []
        for _ in range(80):
            words = text(draw)
            pair = " ".join(words), changed(draw, words, share)
            exact.append(jaccard(*(shingles(each, 5) for each in pair)))
            errors.append(float(estimated(*(signature(each, SCHEME) for each in pair))) - exact[-1])
        theory = (np.mean(exact) * (1 - np.mean(exact)) / SCHEME.places) ** 0.5
        assert abs(np.mean(errors)) < 4 * theory / 80**0.5
        assert np.std(errors) < 1.4 * theory


def test_pairs_meet_as_often_as_theory_says():
    """Within 1 % over 2,400 pairs of similarities from 0.5 to 0.95, by the exact similarity of each."""
    met, expected = [], []
    for similarities, found in plant_pairs(300):
        met += found
        expected += [SCHEME.found(similarity) for similarity in similarities]
    assert abs(np.mean(met) - np.mean(expected)) < 0.01


def test_the_signature_of_a_text_is_fixed():
    """Another signature would make kept indices useless: raise VERSION in minhash.py."""
    assert signature("The quick brown fox jumps over the lazy dog.", SCHEME)[:3].tolist() == [
        408211164,
        352939697,
        655665233,
    ]


def test_case_punctuation_and_layout_do_not_count():
    one, other = "A man, a plan: a canal, Panama and back.", "a man a  plan\na canal panama AND back"
    assert np.array_equal(shingles(one, 5), shingles(other, 5))
    assert len(shingles("这是一个测试文档", 5)) == 4
    assert signature("... !?", SCHEME) is None
    assert len(shingles("", 5)) == 0


def test_groups_give_pairs_with_the_first_and_the_one_before():
    keys = np.array([7, 3, 7, 7, 3, 1], np.uint64)
    pairs = _pairs(keys, np.arange(6, dtype=np.uint64))
    assert pairs.tolist() == [(0, 2), (0, 3), (1, 4), (2, 3)]


def test_components_are_joined_whatever_the_order():
    draw = random.Random(3)
    edges = [(draw.randrange(200), draw.randrange(200)) for _ in range(120)]
    roots = _roots(200, *(np.array(side) for side in zip(*edges, strict=True)))
    draw.shuffle(edges)
    assert np.array_equal(roots, _roots(200, *(np.array(side) for side in zip(*edges, strict=True))))
    assert all(roots[one] == roots[other] for one, other in edges)
    assert all(roots[root] == root for root in roots)


def test_hashes_that_share_a_half_are_told_apart():
    members = np.zeros(3, MEMBER)
    members["high"], members["low"] = [5, 5, 6], [1, 2, 9]
    rows = np.zeros(4, ROW)
    rows["high"], rows["low"] = [5, 5, 6, 7], [2, 3, 9, 9]
    assert is_dropped(rows, members).tolist() == [True, False, True, False]


@pytest.fixture
def corpus(tmp_path):
    """Two files of 60 texts: the second has near copies of 20 of the first, and one longer than its original."""
    draw = random.Random(4)
    first = [text(draw) for _ in range(60)]
    second = [text(draw) for _ in range(39)]
    copies = [changed(draw, ["altered", *words[1:]], 0.01) for words in first[:20]]
    near_in_one = changed(draw, second[0], 0.005) + " and so on"
    texts = [" ".join(words) for words in second]
    return [
        write_jsonl(tmp_path / "a.jsonl", [" ".join(words) for words in first]),
        write_jsonl(tmp_path / "b.jsonl", [*texts, near_in_one, *copies]),
    ]


def test_one_stays_of_each_cluster_by_source_then_length(corpus, tmp_path):
    output = prepare(corpus, tmp_path / "out", near_duplicates=True)
    members = read_near_record(output)
    dropped = members[members["stays"] == 0]
    assert read_manifest(output / "train").rejected == {"near_duplicate": 21}
    assert sorted(zip(dropped["source"].tolist(), dropped["record"].tolist(), strict=True)) == [
        (1, 0),
        *((1, record) for record in range(40, 60)),
    ]
    longest = members[(members["source"] == 1) & (members["record"] == 39)][0]
    assert longest["stays"] == 1
    assert longest["size"] == 2


def test_the_same_bytes_with_any_workers_and_any_memory(corpus, tmp_path):
    one = prepare(corpus, tmp_path / "one", near_duplicates=True, near=Near(index=True))
    two = prepare(corpus, tmp_path / "two", near_duplicates=True, near=Near(index=True, memory_bytes=2**20), workers=2)
    assert shard_files(one) == shard_files(two)


def test_keys_are_sorted_in_ranges_that_fit_into_memory():
    assert FindCandidates.ranges_for(10**9, 2**30) == 45
    assert FindCandidates.ranges_for(10, 2**30) == 1


def test_later_data_is_compared_with_a_kept_index(corpus, tmp_path):
    earlier = prepare(corpus[0], tmp_path / "earlier", near_duplicates=True, near=Near(index=True))
    later = prepare(corpus[1], tmp_path / "later", near_duplicates=True, near=Near(against=[str(earlier)]))
    assert read_manifest(later / "train").rejected == {"near_duplicate": 21}
    members = read_near_record(later)
    assert (members["survivor_source"] == -1).sum() == 20


def test_an_output_without_an_index_is_refused(corpus, tmp_path):
    earlier = prepare(corpus[0], tmp_path / "earlier")
    for settings, problem in (
        ({"near": Near(against=[str(earlier)])}, "has no index; prepare it with"),
        ({"deduplicate": False}, r"needs data\.deduplicate=true"),
    ):
        with pytest.raises(ConfigError, match=problem):
            main(configure(corpus[1], tmp_path / "later", near_duplicates=True, **settings))
