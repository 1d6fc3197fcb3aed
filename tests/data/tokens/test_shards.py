"""The shard format: read by others, by us, and refused when it is broken."""

import random
import shutil

import numpy as np
import pytest

from tests.corpus import make_dataset, write_texts
from tests.data.tokens.broken import edit_manifest, error_line
from trainer.data.tokens.manifest import datasets_in, read_manifest
from trainer.data.tokens.shard_index import build_index, index_path, write_index
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.shards import ShardReader, open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.data.tokens.verify import verify


def all_tokens(reader):
    return np.concatenate([reader.block(number).tokens for number in range(len(reader.index))])


def test_stock_webdataset_reads_every_token(dataset):
    import webdataset

    manifest = read_manifest(dataset)
    urls = [str(dataset / shard.file) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    theirs = np.concatenate([sample["tokens.npy"] for sample in samples])
    assert np.array_equal(theirs, np.concatenate([all_tokens(reader) for reader in open_shards(manifest)]))
    assert len(theirs) == manifest.tokens
    assert sum(sample["lengths.npy"].sum() for sample in samples) == manifest.tokens
    assert sum(sample["documents.jsonl"].count(b"\n") for sample in samples) == manifest.documents


def test_tokens_decode_to_the_documents_that_were_written(dataset):
    manifest = read_manifest(dataset)
    tokenizer = load_tokenizer(manifest.tokenizer_file)
    texts = write_texts(60)
    decoded = {}
    for reader in open_shards(manifest):
        for span in reader.documents(0, reader.tokens):
            decoded[span.record] = tokenizer.decode(reader.read(span.start, span.stop - 1))
            assert reader.read(span.stop - 1, span.stop).tolist() == [manifest.end_of_text]
    assert [decoded[record] for record in range(60)] == texts


def test_any_range_equals_the_concatenated_tokens(dataset):
    manifest = read_manifest(dataset)
    draw = random.Random(0)
    for reader in open_shards(manifest):
        tokens = all_tokens(reader)
        assert len(tokens) == reader.tokens
        edges = [0, int(reader.index[0, 1]), reader.tokens]
        pairs = [(a, b) for a in edges for b in edges if a <= b]
        pairs += [sorted(draw.choices(range(reader.tokens + 1), k=2)) for _ in range(300)]
        for start, stop in pairs:
            part = reader.read(start, stop)
            assert part.dtype == np.uint16
            assert np.array_equal(part, tokens[start:stop])
        with pytest.raises(IndexError):
            reader.read(0, reader.tokens + 1)


def test_documents_of_a_range_are_those_that_overlap_it(dataset):
    reader = open_shards(read_manifest(dataset))[0]
    spans = reader.documents(0, reader.tokens)
    assert spans[0].start == 0
    assert [span.stop for span in spans[:-1]] == [span.start for span in spans[1:]]
    assert [span.stop - span.start for span in spans] == reader.lengths().tolist()
    draw = random.Random(0)
    for _ in range(100):
        start, stop = sorted(draw.choices(range(reader.tokens + 1), k=2))
        wanted = [span for span in spans if span.start < stop and span.stop > start] if start < stop else []
        assert reader.documents(start, stop) == wanted


def test_views_outlive_a_closed_reader(dataset):
    reader = open_shards(read_manifest(dataset))[0]
    part = reader.read(0, 10)
    expected = part.tolist()
    reader.close()
    assert part.tolist() == expected == reader.read(0, 10).tolist()


def test_equal_blocks_make_equal_bytes_and_the_index_can_be_rebuilt(dataset, tmp_path):
    manifest = read_manifest(dataset)
    reader, shard = open_shards(manifest)[1], manifest.shards[1]
    blocks = [reader.block(number) for number in range(len(reader.index))]
    path = tmp_path / shard.file
    assert write_shard(path, blocks, dtype="uint16") == shard
    assert path.read_bytes() == (dataset / shard.file).read_bytes()
    assert np.array_equal(build_index(path, "uint16"), np.load(index_path(path)))


def test_large_vocabularies_take_32_bits(dataset, tmp_path):
    manifest = read_manifest(dataset)
    block = open_shards(manifest)[0].block(0)
    wide = block.tokens.astype(np.uint32) + 70_000
    shard = write_shard(
        tmp_path / "shard-000000.tar", [type(block)(wide, block.lengths, block.documents)], dtype="uint32"
    )
    assert np.array_equal(ShardReader(tmp_path, shard, "uint32").read(0, shard.tokens), wide)


def test_fingerprint_knows_content_not_place_or_time(dataset, copy):
    fingerprint = read_manifest(dataset).fingerprint
    edit_manifest(copy, lambda content: content["prepared"].update(time="another", command=[]))
    assert read_manifest(copy).fingerprint == fingerprint
    other = make_dataset(copy / "other", seed=1)
    assert other.fingerprint != fingerprint


def test_intact_dataset_verifies(dataset):
    assert verify(read_manifest(dataset)) == []


# ---- broken ones


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def test_a_flipped_byte_anywhere_is_found(copy):
    manifest = read_manifest(copy)
    path = copy / manifest.shards[0].file
    intact = path.read_bytes()
    draw = random.Random(0)
    for place in [0, len(intact) - 1, *draw.sample(range(len(intact)), 20)]:
        flip(path, place)
        problems = verify(manifest)
        assert any(str(path) in problem and "sha256" in problem for problem in problems), place
        assert all("\n" not in problem for problem in problems)
        path.write_bytes(intact)


def test_a_truncated_shard_is_refused_at_opening(copy):
    path = copy / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:-1500])
    assert "shard-000001.tar" in error_line(open_shards, read_manifest(copy))
    problems = verify(read_manifest(copy))
    assert any("expected by the manifest" in problem for problem in problems)
    assert any("cut short" in problem for problem in problems)


def test_a_garbage_shard_is_found_by_verify(copy):
    path = copy / "shard-000001.tar"
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))
    problems = verify(read_manifest(copy))
    assert problems
    assert all("shard-000001.tar" in problem for problem in problems)


def test_a_missing_shard_is_refused_by_name(copy):
    (copy / "shard-000002.tar").unlink()
    assert "shard-000002.tar: the shard is missing" in error_line(open_shards, read_manifest(copy))
    assert len(verify(read_manifest(copy))) == 1


@pytest.mark.parametrize("damage", ["missing", "garbage", "other shard's", "outside", "shape"])
def test_a_bad_index_is_refused_with_the_mend(damage, copy):
    path = copy / "shard-000000.index"
    index = np.load(path)
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"garbage")
    elif damage == "other shard's":
        shutil.copy(copy / "shard-000001.index", path)
    elif damage == "outside":
        index[-1, 0] += 10**6
        write_index(copy / "shard-000000.tar", index)
    else:
        write_index(copy / "shard-000000.tar", index[:, :3])
    line = error_line(open_shards, read_manifest(copy))
    assert "shard-000000" in line
    assert f'banyan data index {copy}"' in line
    assert any("banyan data index" in problem for problem in verify(read_manifest(copy)))


def test_an_index_that_adds_up_but_points_elsewhere_is_found_by_verify(copy):
    path = copy / "shard-000000.tar"
    index = np.load(index_path(path))
    write_index(path, index[::-1])
    assert any("banyan data index" in problem for problem in verify(read_manifest(copy)))


def resize(content):
    content["shards"][0]["tokens"] += 1


def retotal(content):
    resize(content)
    content["tokens"] += 1


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (resize, "add up"),
        (retotal, "fingerprint"),
        (lambda content: content.update(fingerprint="0"), "fingerprint"),
        (lambda content: content.update(version=99), "version 99"),
        (lambda content: content.update(format="other"), "not a manifest"),
        (lambda content: content.pop("tokenizer"), "malformed"),
        (lambda content: content["shards"][0].update(file="../x.tar"), "bare name"),
        (lambda content: content.update(shards=[1]), "malformed"),
        (lambda content: content.update(dtype="int8"), "dtype"),
    ],
)
def test_a_manifest_that_disagrees_is_refused(change, part, copy):
    edit_manifest(copy, change)
    line = error_line(read_manifest, copy)
    assert part in line
    assert "manifest.json" in line


def test_a_missing_or_broken_manifest_is_refused(copy):
    (copy / "manifest.json").write_text("{")
    assert "manifest.json" in error_line(read_manifest, copy)
    (copy / "manifest.json").unlink()
    assert "missing" in error_line(read_manifest, copy)
    shutil.copytree(copy, copy.parent / "both" / "validation")
    assert "missing" in error_line(datasets_in, copy)


def test_another_tokenizer_is_found_by_verify(copy):
    path = copy / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    assert "tokenizer.json" in verify(read_manifest(copy))[0]


def lie(block, **changes):
    return type(block)(**{**block.__dict__, **changes})


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (lambda block: lie(block, lengths=block.lengths[::-1]), "end-of-text"),
        (lambda block: lie(block, lengths=block.lengths + 1), "add up"),
        (lambda block: lie(block, documents=block.documents[:-1]), "listed"),
        (lambda block: lie(block, tokens=block.tokens + 300), "vocabulary"),
    ],
)
def test_a_shard_that_contradicts_itself_is_found_by_verify(wrong, part, copy):
    """A writer with a fault: hashes fit, contents don't."""
    from dataclasses import replace

    manifest = read_manifest(copy)
    reader, shard = open_shards(manifest)[0], manifest.shards[0]
    assert int(reader.lengths()[0]) != int(reader.lengths()[len(reader.block(0).lengths) - 1])
    rewritten = write_shard(copy / shard.file, [wrong(reader.block(0))], dtype="uint16")
    problems = verify(replace(manifest, shards=(rewritten, *manifest.shards[1:])))
    assert any(part in problem for problem in problems), problems
