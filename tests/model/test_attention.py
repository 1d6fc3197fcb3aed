import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from trainer.model.attention import (
    KeyValueCache,
    attend,
    causal_mask,
    document_mask,
    document_mask_mod,
    document_positions,
)

IDS = torch.tensor([[4, 4, 4, 7, 7, 9, 9, 9], [0, 1, 1, 1, 1, 1, 1, 2]])


def heads(count: int, time: int = 8, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, count, time, 16, generator=torch.Generator().manual_seed(count))


def test_positions_restart_at_each_document():
    expected = [[0, 1, 2, 0, 1, 0, 1, 2], [0, 0, 1, 2, 3, 4, 5, 0]]
    assert document_positions(IDS).tolist() == expected


def test_document_mask_allows_earlier_tokens_of_the_same_document_only():
    mask = document_mask(IDS)
    for row, ids in enumerate(IDS.tolist()):
        for query in range(8):
            allowed = [key for key in range(8) if mask[row, 0, query, key]]
            assert allowed == [key for key in range(query + 1) if ids[key] == ids[query]]


def test_flex_mask_mod_equals_the_dense_mask():
    dense = create_mask(document_mask_mod(IDS), 2, None, 8, 8, device="cpu")
    assert torch.equal(dense, document_mask(IDS))


# The dense reference is what runs without a GPU; its warning says that it isn't compiled.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_sdpa_under_documents():
    ids = torch.arange(150).expand(2, -1) // 37
    queries, keys, values = heads(4, time=150), heads(2, time=150), heads(2, time=150)
    block_mask = create_block_mask(document_mask_mod(ids), 2, None, 150, 150, device="cpu")
    flex = flex_attention(queries, keys, values, block_mask=block_mask, enable_gqa=True)
    torch.testing.assert_close(flex, attend(queries, keys, values, document_mask(ids)), atol=1e-5, rtol=0)


def test_grouped_attention_equals_the_formula():
    queries, keys, values = heads(4), heads(2), heads(2)
    scores = queries @ keys.repeat_interleave(2, dim=1).mT / 16**0.5
    scores = scores.masked_fill(~causal_mask(past=0, time=8, device=torch.device("cpu")), float("-inf"))
    expected = scores.softmax(-1) @ values.repeat_interleave(2, dim=1)
    torch.testing.assert_close(attend(queries, keys, values, None), expected, atol=1e-5, rtol=0)


def test_causal_mask_lets_queries_see_the_past():
    assert causal_mask(past=2, time=2, device=torch.device("cpu")).tolist() == [
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_cache_returns_all_that_was_appended():
    cache = KeyValueCache(layers=2, capacity=8)
    keys, values = heads(2), heads(2) + 1
    layer = cache.layers[0]
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        all_keys, all_values = layer.append(keys[:, :, start:stop], values[:, :, start:stop])
        assert torch.equal(all_keys, keys[:, :, :stop])
        assert torch.equal(all_values, values[:, :, :stop])
        assert cache.length == stop
