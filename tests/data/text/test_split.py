"""Filters, duplicates, split, shuffle and shards, as functions of hashes and sizes."""

import numpy as np
import xxhash

from trainer.data.text.filters import EMPTY, UNDECODABLE, first_occurrences, rejection
from trainer.data.text.split import cut_into_shards, held_out, shuffle_order


def hashes_of(texts):
    digests = b"".join(xxhash.xxh3_128_digest(text.encode()) for text in texts)
    return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)


HASHES = hashes_of([f"document {n}" for n in range(5000)])


def test_rejections():
    assert rejection(b"") == rejection(" \n\u3000\t".encode()) == EMPTY
    assert rejection(b"\xff\xfe") == rejection(b"a\0b") == UNDECODABLE
    assert rejection("ä".encode()) is None


def test_first_of_equal_documents_stays():
    kept = first_occurrences(hashes_of(["b", "a", "b", "c", "a"]))
    assert kept.tolist() == [True, True, False, True, False]


def test_split_follows_the_document_wherever_it_stands():
    held = held_out(HASHES, 0.1)
    assert 0.08 < held.mean() < 0.12
    order = np.random.default_rng(0).permutation(len(HASHES))
    assert np.array_equal(held_out(HASHES[order], 0.1), held[order])
    assert not (held & ~held_out(HASHES, 0.2)).any()  # a larger fraction only adds
    assert not held_out(HASHES, 0.0).any()


def test_shuffle_depends_on_seed_and_documents_alone():
    shuffled = HASHES[shuffle_order(HASHES, seed=1)]
    order = np.random.default_rng(0).permutation(len(HASHES))
    again = HASHES[order][shuffle_order(HASHES[order], seed=1)]
    assert np.array_equal(shuffled, again)
    assert not np.array_equal(shuffled, HASHES[shuffle_order(HASHES, seed=2)])


def test_shards_are_contiguous_whole_and_about_equal():
    lengths = np.random.default_rng(0).integers(1, 1000, 5000)
    ranges = cut_into_shards(lengths, 100_000)
    assert len(ranges) == -(-lengths.sum() // 100_000)
    assert np.array_equal(np.concatenate([np.arange(5000)[rows] for rows in ranges]), np.arange(5000))
    sizes = [lengths[rows].sum() for rows in ranges]
    assert max(sizes) - min(sizes) < 2000


def test_a_document_longer_than_a_shard_leaves_no_empty_shard():
    ranges = cut_into_shards(np.array([10, 10_000, 10]), 100)
    assert [list(range(3))[rows] for rows in ranges] == [[0, 1], [2]]
