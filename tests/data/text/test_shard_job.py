"""Documents → blocks, with one document's text in memory at a time."""

import numpy as np
import pytest
import xxhash

from tests.corpus import make_tokenizer
from trainer.data.text.document_store import ROW, DocumentStore, read_texts, sample_texts
from trainer.data.text.shard_job import pack
from trainer.data.text.split import Buckets
from trainer.data.tokens.encoder import Encoder
from trainer.errors import InputError


def rows_of(texts):
    """Rows of texts that lie end to end, alternately in two files."""
    rows = np.zeros(len(texts), ROW)
    rows["source"] = range(len(texts))
    rows["length"] = [len(text) for text in texts]
    hashes = b"".join(map(xxhash.xxh3_128_digest, texts))
    rows["high"], rows["low"] = np.frombuffer(hashes, ">u8").reshape(-1, 2).T
    for file in range(2):
        lengths = rows["length"][file::2]
        rows["offset"][file::2] = np.cumsum(lengths) - lengths
    return rows


def stored(folder, texts):
    """The arguments of read_texts for these texts."""
    for file in range(2):
        (folder / f"{file}.text").write_bytes(b"".join(texts[file::2]))
    store = DocumentStore(folder, Buckets(1, 1), 0, deduplicate=True, shuffled=True)
    return rows_of(texts), np.arange(len(texts)) % 2, lambda file: folder / f"{file}.text", store


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("sizes", [[3, 4, 3, 9, 1, 12, 1, 1, 30, 2], [1] * 40, [50], [10, 10], [9, 0, 0, 9], []])
def test_blocks_hold_whole_documents_up_to_their_size(sizes, dtype):
    tokenizer = make_tokenizer(257)  # a token for each byte
    texts = [bytes(97 + (n + place) % 26 for place in range(size)) for n, size in enumerate(sizes)]
    blocks = list(pack(rows_of(texts), ([text] for text in texts), Encoder(tokenizer, "gigatoken"), 10, dtype))
    expected, room = [], 0
    for size in sizes:  # the rule, in its plainest form
        if not expected or room + size + 1 > 10:
            expected.append([])
            room = 0
        expected[-1].append(size + 1)
        room += size + 1
    assert [block.lengths.tolist() for block in blocks] == expected
    assert [document.source for block in blocks for document in block.documents] == list(range(len(sizes)))
    tokens = np.concatenate([np.empty(0, dtype), *(block.tokens for block in blocks)])
    assert tokens.dtype == dtype
    assert tokens.tolist() == [token for text in texts for token in [*tokenizer.encode(text.decode()), 0]]


@pytest.mark.parametrize("group_bytes", [1, 100, 10**6])
def test_texts_come_in_order_and_each_alone(tmp_path, group_bytes):
    texts = [bytes([97 + n % 26]) * (n * 37 % 260) for n in range(60)]
    read = list(read_texts(*stored(tmp_path, texts), group_bytes))
    assert [text for (text,) in read] == texts


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content[1:], lambda _: None])
def test_a_text_that_is_not_what_was_stored_is_refused(tmp_path, damage):
    arguments = stored(tmp_path, [b"one", b"two", b"three"])
    path = tmp_path / "0.text"
    content = damage(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}: can't be read .*remove {tmp_path}, and start"):
        list(read_texts(*arguments))


def test_a_sample_is_whole_texts_or_a_part_of_a_large_one():
    texts = [b"a" * 40, b"b" * 40, "中".encode() * 40]
    assert list(sample_texts(texts, 90)) == texts[:2]
    assert list(sample_texts(texts, 500)) == texts
    assert list(sample_texts(texts[2:], 50)) == ["中".encode() * 16]
    assert list(sample_texts([b"", *texts], 20)) == [b"", b"a" * 20]
