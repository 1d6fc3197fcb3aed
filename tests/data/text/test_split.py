"""Filters, duplicates, split, shuffle and shards, as functions of hashes and sizes."""

import random

import numpy as np
import pytest
import xxhash

from trainer.data.text.filters import EMPTY, UNDECODABLE, first_occurrences, rejection
from trainer.data.text.split import Buckets, held_out, shard_ranges, shuffle_place


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


def test_place_in_the_shuffle_depends_on_seed_and_document_alone():
    digest = xxhash.xxh3_128_digest(b"a document")
    assert shuffle_place(digest, 1) == xxhash.xxh3_64_intdigest(digest, 1) != shuffle_place(digest, 2)


@pytest.mark.parametrize("size", [0, 1, 2**27, 2**27 + 1, 2**30, 5 * 2**30, 2**46])
def test_buckets_are_ranges_of_places_and_files_ranges_of_buckets(size):
    buckets = Buckets.for_bytes(size)
    places = np.sort(np.random.default_rng(0).integers(0, 2**64, 10_000, np.uint64, endpoint=False))
    numbers = buckets.of(np.array([0, *places, 2**64 - 1], np.uint64))
    assert (np.diff(numbers) >= 0).all()
    assert (numbers[0], numbers[-1]) == (0, buckets.count - 1)
    files = [buckets.file_of(bucket) for bucket in range(buckets.count)]
    assert sorted(set(files)) == list(range(buckets.files))
    for file in range(buckets.files):
        assert buckets.last_in(file) == max(number for number in range(buckets.count) if files[number] == file)


def cut_in_one(lengths, shard_bytes):
    """The rule of shard_ranges, in its plainest form: which documents are in which shard."""
    total, start, shards = sum(lengths), 0, {}
    count = -(-total // shard_bytes)
    for number, length in enumerate(lengths):
        shards.setdefault(start * count // total, []).append(number)
        start += length
    return list(shards.values())


def cut_by_ranges(lengths, shard_bytes):
    starts = np.cumsum(lengths) - lengths
    long = [
        (int(start), int(length)) for start, length in zip(starts, lengths, strict=True) if length > shard_bytes // 2
    ]
    ranges = shard_ranges(int(np.sum(lengths)), shard_bytes, long)
    return [np.flatnonzero((starts >= first) & (starts < last)).tolist() for first, last in ranges]


def test_shards_are_contiguous_whole_and_about_equal():
    lengths = np.random.default_rng(0).integers(1, 1000, 5000)
    shards = cut_by_ranges(lengths, 100_000)
    assert shards == cut_in_one(lengths.tolist(), 100_000)
    assert len(shards) == -(-lengths.sum() // 100_000)
    sizes = [lengths[rows].sum() for rows in shards]
    assert max(sizes) - min(sizes) < 2000


def test_documents_longer_than_a_shard_leave_no_empty_shard():
    assert cut_by_ranges(np.array([10, 10_000, 10]), 100) == [[0, 1], [2]]
    draw = random.Random(2)
    for _ in range(3000):
        lengths = [draw.choice([1, 2, 3, 5, 8, 13, 40, 200]) for _ in range(draw.randint(1, 12))]
        size = draw.randint(1, 60)
        assert cut_by_ranges(np.array(lengths), size) == cut_in_one(lengths, size)
