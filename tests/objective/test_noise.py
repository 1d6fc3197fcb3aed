"""What masked and span-corrupted rows are made of: shares, words, sentinels; a function of (seed, position) alone."""

import numpy as np
import pytest
import torch

from tests.corpus import make_dataset, make_tokenizer
from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.loader import IGNORED
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.token_rows import TokenRows
from trainer.data.tokens.word_starts import word_starts
from trainer.errors import ConfigError
from trainer.objective import masked, seq2seq
from trainer.objective.noise import choose_spans, generator, span_counts

LENGTH = 64


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("noise") / "train", documents=40)


@pytest.fixture(scope="module")
def rows(manifest):
    """(rows, LENGTH + 1) of text, which hold end-of-text tokens too."""
    tokenizer = make_tokenizer()
    ids = tokenizer.encode("every root finds water under red stone " * 4000)
    rows = np.array(ids[: 200 * (LENGTH + 1)], np.uint16).reshape(200, LENGTH + 1)
    rows[:, 20] = tokenizer.end_of_text_id
    return rows


def build(manifest, **settings):
    return masked.build(ObjectiveSettings(name="masked", **settings), Data(sequence_length=LENGTH), manifest, 7)


def test_masks_are_80_10_10_of_a_seventh_and_spare_special_tokens(manifest, rows):
    batch = build(manifest).to_batch(rows, positions=np.arange(200))
    inputs, targets, tokens = batch.inputs.numpy(), batch.targets.numpy(), rows[:, :-1].astype(np.int64)
    chosen = targets != IGNORED
    assert (targets[chosen] == tokens[chosen]).all()
    assert (inputs[~chosen] == tokens[~chosen]).all()
    assert not chosen[:, 20].any()
    assert chosen.mean() == pytest.approx(0.15, abs=0.02)
    assert chosen.any(axis=1).all()
    replaced = inputs[chosen] == manifest.vocab_size  # the tokenizer has no mask: the first id above its vocabulary
    kept = inputs[chosen] == tokens[chosen]
    assert replaced.mean() == pytest.approx(0.8, abs=0.03)
    assert kept.mean() == pytest.approx(0.1, abs=0.03)
    assert inputs[~replaced.all() & chosen].max() <= manifest.vocab_size


def test_whole_words_are_masked(manifest, rows):
    objective = build(manifest)
    starts = word_starts(manifest.tokenizer_file)
    targets = objective.to_batch(rows, positions=np.arange(200)).targets.numpy()
    chosen = targets != IGNORED
    inside = ~starts[rows[:, 1:-1]] & (rows[:, :-2] != manifest.end_of_text)  # goes on with the word before it
    assert inside.any()
    assert (chosen[:, 1:][inside] == chosen[:, :-1][inside]).all()
    apart = build(manifest, whole_words=False).to_batch(rows, positions=np.arange(200)).targets.numpy() != IGNORED
    assert (apart[:, 1:][inside] != apart[:, :-1][inside]).any()


def test_a_row_is_masked_by_its_position_whatever_stands_beside_it(manifest, rows):
    objective = build(manifest)
    whole = objective.to_batch(rows[:8], positions=np.arange(8))
    part = objective.to_batch(rows[5:7], positions=np.array([5, 6]))
    assert torch.equal(whole.inputs[5:7], part.inputs)
    other = objective.to_batch(rows[5:7], positions=np.array([15, 16]))
    assert not torch.equal(other.inputs, part.inputs)


def test_padding_is_never_masked(manifest, rows):
    tokens = rows[:4, :-1]
    ids = np.zeros(tokens.shape, np.int64)
    ids[:, 30:] = 1
    batch = build(manifest).to_batch(TokenRows(tokens, tokens, ids == 0, ids), positions=np.arange(4))
    assert (batch.targets[:, 30:] == IGNORED).all()


def test_a_mask_that_is_not_there_is_refused(manifest):
    with pytest.raises(ConfigError, match=r"objective.mask_token=<hidden>: the tokenizer of .* has no such"):
        build(manifest, mask_token="<hidden>")


def test_spans_are_as_t5_draws_them():
    dropped, spans = span_counts(512, 0.15, 3.0)
    assert (dropped, spans) == (77, 26)
    sizes, firsts = [], []
    for position in range(200):
        chosen = choose_spans(512, 0.15, 3.0, generator("spans", 0, position))
        assert (chosen >= 0).sum() == dropped
        assert chosen[0] == -1
        assert sorted(set(chosen.tolist())) == [-1, *range(spans)]
        assert (np.diff(chosen[chosen >= 0]) >= 0).all()
        sizes += np.bincount(chosen[chosen >= 0]).tolist()
        firsts.append(int(np.argmax(chosen >= 0)))
    assert np.mean(sizes) == pytest.approx(dropped / spans)
    assert np.mean(firsts) == pytest.approx((512 - dropped) / spans, rel=0.15)


def test_sources_and_targets_of_spans_make_the_row_again(manifest, rows):
    data, settings = Data(sequence_length=LENGTH), ObjectiveSettings(name="seq2seq")
    objective = seq2seq.build(settings, data, manifest, 3)
    batch = objective.to_batch(rows, positions=np.arange(200))
    assert objective.units_per_row() == batch.targets.shape[1]
    assert seq2seq.extra_sentinels(settings, data, manifest) == len(objective.sentinels)
    assert objective.sentinels.tolist() == [manifest.vocab_size + n for n in range(len(objective.sentinels))]
    for row, source, target in zip(rows[:, :-1], batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert source[-1] == target[-1] == manifest.end_of_text
        again, spans, place = [], {}, None
        for token in target[:-1]:
            if token >= manifest.vocab_size:
                place = token
            spans.setdefault(place, []).append(token)
        for token in source[:-1]:
            again += spans[token][1:] if token >= manifest.vocab_size else [token]
        assert again == row.tolist()


def test_sentinels_of_the_tokenizer_are_taken(manifest, tmp_path):
    tokenizer = make_tokenizer().with_special([f"<extra_id_{number}>" for number in range(2)])
    own = read_manifest(make_dataset(tmp_path / "train", tokenizer=tokenizer).folder)
    special = {**own.special_ids, "<extra_id_0>": 301, "<extra_id_1>": 300}
    object.__setattr__(own, "special_ids", special)
    ids = seq2seq.sentinel_ids(ObjectiveSettings(name="seq2seq"), Data(sequence_length=LENGTH), own)
    assert ids[:3].tolist() == [301, 300, own.vocab_size]
