"""Who encodes, and that its ids are those of `tokenizers`."""

import numpy as np
import pytest

from tests.corpus import make_tokenizer, write_texts
from trainer.data.tokens import encoder as module
from trainer.data.tokens.encoder import AWKWARD_TEXTS, Encoder, try_tokenizer
from trainer.data.tokens.tokenizer import END_OF_TEXT

TEXTS = [text.encode() for text in write_texts(50)]


@pytest.fixture(scope="module")
def trained():
    return make_tokenizer()


def encode(encoder, text):
    return np.concatenate(encoder.encode(text.encode())).tolist()


@pytest.mark.parametrize("engine", ["gigatoken", "tokenizers"])
def test_any_text_comes_back_from_its_ids(trained, engine):
    encoder = Encoder(trained, engine)
    for text in [*AWKWARD_TEXTS, END_OF_TEXT, f"a{END_OF_TEXT}{END_OF_TEXT} b", ""]:
        ids = encode(encoder, text)
        assert trained.decode(ids) == text
        assert ids == trained.encode(text)


@pytest.mark.parametrize("engine", ["gigatoken", "tokenizers"])
def test_a_special_token_spelt_out_in_a_text_stays_text(trained, engine):
    assert trained.end_of_text_id == 0
    assert 0 not in encode(Encoder(trained, engine), f"one {END_OF_TEXT} two")


def test_gigatoken_is_used_where_it_agrees(trained):
    trial = try_tokenizer(trained, TEXTS)
    assert (trial.engine, trial.loss.lost) == ("gigatoken", 0)


class Panic(BaseException):
    """What Rust code raises through PyO3: no Exception."""


@pytest.mark.parametrize("error", [RuntimeError("unsupported"), Panic("unsupported")])
def test_disagreement_or_failure_of_gigatoken_falls_back_to_tokenizers(trained, monkeypatch, error):
    class Other:
        def encode(self, text):
            return np.array([1, 2, 3], np.uint32)

    monkeypatch.setattr(module, "_gigatoken", lambda tokenizer: Other())
    trial = try_tokenizer(trained, TEXTS)
    assert trial.engine == "tokenizers"
    assert "other ids" in trial.why

    def fail(tokenizer):
        raise error

    monkeypatch.setattr(module, "_gigatoken", fail)
    trial = try_tokenizer(trained, TEXTS)
    assert (trial.engine, trial.why) == ("tokenizers", "gigatoken can't: unsupported")
