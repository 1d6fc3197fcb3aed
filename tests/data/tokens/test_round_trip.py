"""What doesn't come back from its ids is counted; what is only written otherwise isn't."""

import pytest

from tests.corpus import make_tokenizer, write_texts
from tests.data.tokens.published import REGEXES, byte_level, sentencepiece, unigram, wordpiece
from trainer.data.tokens.round_trip import Loss
from trainer.data.tokens.tokenizer import Tokenizer

ENGLISH = write_texts(60)
CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 3


def loss_of(engine, *texts):
    tokenizer = Tokenizer("theirs", engine.to_str(), "</s>")
    loss = Loss(tokenizer)
    for text in texts:
        loss.add(text, tokenizer.encode(text))
    return loss


@pytest.mark.parametrize(
    "text", ["the tree  grows\n\n\tx ", " led by a blank", CHINESE, "e\u0301 😀\u200d \x00\x1b", "İ ﬁ"]
)
def test_good_tokenizers_lose_nothing(text):
    for name in REGEXES:
        assert loss_of(byte_level(name), text).lost == 0
    for split in (True, False):
        assert loss_of(sentencepiece(ENGLISH, split=split), text).lost == 0
    trained = make_tokenizer()
    loss = Loss(trained)
    loss.add(text, trained.encode(text))
    assert loss.lost == 0


def test_other_forms_of_the_same_character_are_no_loss():
    assert loss_of(byte_level("qwen2", nfc=True), "e\u0301 \u212b x").lost == 0


def test_unknown_characters_are_lost_and_shown():
    loss = loss_of(wordpiece(ENGLISH), CHINESE)
    assert loss.share > 0.9
    assert loss.example.startswith('"床前明月光')
    assert "[UNK]" in loss.example
    assert loss_of(unigram(ENGLISH), CHINESE).share > 0.9


def test_lowercasing_and_dropped_lines_are_lost_in_part():
    assert 0.0 < loss_of(wordpiece(ENGLISH), "The Tree grows").share < 0.5
    assert 0.0 < loss_of(wordpiece(ENGLISH), "the tree\n\ngrows").share < 0.5
    assert 0.0 < loss_of(unigram(ENGLISH), "the tree ｇｒｏｗｓ").share < 0.9


def test_blanks_that_the_decoder_puts_between_all_tokens_have_not_come_back():
    from tokenizers import Tokenizer as Engine
    from tokenizers import models, pre_tokenizers, trainers

    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.train_from_iterator(
        ENGLISH, trainers.BpeTrainer(vocab_size=26, special_tokens=["</s>"], show_progress=False)
    )
    assert 0.1 < loss_of(engine, *ENGLISH).share < 0.3
    assert loss_of(engine, CHINESE).share == 1.0
