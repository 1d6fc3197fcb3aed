"""Documents → blocks, with one document's text in memory at a time."""

import numpy as np
import pytest

from tests.corpus import make_tokenizer
from trainer.data.text import document_store
from trainer.data.text.document_store import Documents, read_texts, sample_texts, text_path
from trainer.data.text.shard_job import pack
from trainer.data.tokens.encoder import Encoder


def stored(folder, texts):
    """Documents as `collect_documents` leaves them, alternately in two items, in the order of `texts`."""
    places = []
    for item in range(2):
        with open(text_path(folder, item), "wb") as file:
            for row in range(item, len(texts), 2):
                places.append((row, item, file.tell()))
                file.write(texts[row])
    rows = np.array(sorted(places), np.int64).reshape(-1, 3)
    lengths = np.array([len(text) for text in texts], np.int64)
    return Documents(rows[:, 1], rows[:, 0], rows[:, 0], rows[:, 2], lengths, np.zeros((len(texts), 2), np.uint64))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("sizes", [[3, 4, 3, 9, 1, 12, 1, 1, 30, 2], [1] * 40, [50], [10, 10], [9, 0, 0, 9], []])
def test_blocks_hold_whole_documents_up_to_their_size(tmp_path, sizes, dtype):
    tokenizer = make_tokenizer(257)  # a token for each byte
    texts = [bytes(97 + (n + place) % 26 for place in range(size)) for n, size in enumerate(sizes)]
    blocks = list(pack(stored(tmp_path, texts), tmp_path, Encoder(tokenizer, "gigatoken"), 10, dtype))
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


def test_texts_come_in_order_and_each_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(document_store, "READ_BYTES", 100)
    texts = [bytes([97 + n % 26]) * (n * 37 % 260) for n in range(60)]
    read = list(read_texts(tmp_path, stored(tmp_path, texts)))
    assert [text for (text,) in read] == texts


def test_a_sample_is_whole_texts_or_a_part_of_a_large_one(tmp_path):
    documents = stored(tmp_path, [b"a" * 40, b"b" * 40, "中".encode() * 40])
    assert list(sample_texts(tmp_path, documents, 90)) == [b"a" * 40, b"b" * 40]
    assert list(sample_texts(tmp_path, documents, 500)) == [b"a" * 40, b"b" * 40, "中".encode() * 40]
    large = documents.take(slice(2, 3))
    assert list(sample_texts(tmp_path, large, 50)) == ["中".encode() * 16]
