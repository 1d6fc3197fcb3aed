"""The yardstick is a proper model and beats what knows less."""

import math

import numpy as np
import pytest

from tests.corpus import make_dataset
from trainer.config import Data
from trainer.data.tokens.bigram import bigram_loss
from trainer.data.tokens.datasets import open_training


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bigram")
    make_dataset(folder / "a", documents=40)
    make_dataset(folder / "b", documents=10, shards=1, seed=4)
    return [open_training(Data(path=str(folder / name), sequence_length=32))[0] for name in "ab"]


def test_loss_equals_a_plain_count(sets):
    training, validation = sets
    tokens = [shard.read(0, shard.tokens).astype(int) for shard in training.shards]
    vocab = training.manifest.vocab_size
    pairs, unigrams = np.zeros((vocab, vocab)), np.ones(vocab)
    for stream in tokens:
        np.add.at(pairs, (stream[:-1], stream[1:]), 1)
        np.add.at(unigrams, stream[1:], 1)
    unigrams /= unigrams.sum()
    kinds = np.maximum((pairs > 0).sum(axis=1), 1)
    probability = (pairs + kinds[:, None] * unigrams) / (pairs.sum(axis=1) + kinds)[:, None]
    assert probability.sum(axis=1) == pytest.approx(1.0)
    rows = list(validation.gather_in_file_order(np.arange(20)).astype(int))
    expected = -np.mean([np.log(probability[row[:-1], row[1:]]) for row in rows])
    assert bigram_loss([training], validation, rows=20) == pytest.approx(expected)


def test_loss_is_far_below_uniform(sets):
    training, validation = sets
    assert bigram_loss([training], validation, rows=20) < math.log(training.manifest.vocab_size) / 2
