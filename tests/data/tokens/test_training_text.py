"""What a tokenizer is trained on: pieces that hold the same words, however the text is cut."""

import random
from collections import Counter

import pytest

from tests.corpus import WORDS
from trainer.data.tokens.tokenizer import train_tokenizer
from trainer.data.tokens.training_text import LONGEST_WORD, PIECE, TrainingText, byte_level, pieces_of, whole_characters

draw = random.Random(3)
TEXTS = {
    "words": " ".join(draw.choices(WORDS, k=20_000)),
    "no blanks": "".join(draw.choice((*WORDS, "'s", ".", "12", "é", "_")) for _ in range(20_000)),
    "chinese": "".join(draw.choices("床前明月光，疑是地上霜。举头望明月", k=20_000)),
    "numbers": ",".join(str(draw.randrange(10**6)) for _ in range(10_000)),
    "contractions": "'s'll''re'" * 5000,
    "blanks": ("\n" * 900 + "x \u3000 \x1f\x85y  'll") * 60,
    "emoji": "".join(draw.choices(["😀", "👩", "a", "\u0301", " "], k=20_000)),
}


def words_of(texts):
    """Words as the trainer counts them."""
    counted = Counter()
    for text in texts:
        counted.update(word for word, _ in byte_level().pre_tokenize_str(text))
    return counted


@pytest.mark.parametrize("kind", TEXTS)
def test_pieces_are_small_and_hold_the_words_of_the_whole(kind):
    text = TEXTS[kind]
    pieces = list(pieces_of(text.encode()))
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= PIECE
    assert words_of(pieces) == words_of([text])


@pytest.mark.parametrize("text", ["acgt" * 10_000, "字" * 10_000, " " * 50_000, f"the {'x' * 5000} tree", "1" * 30_000])
def test_long_words_are_cut_and_nothing_else(text):
    pieces = list(pieces_of(text.encode()))
    assert "".join(pieces) == text
    assert max(map(len, words_of(pieces))) <= LONGEST_WORD
    short = {word: count for word, count in words_of([text]).items() if len(word) <= LONGEST_WORD}
    assert short.items() <= words_of(pieces).items()


def test_a_megabyte_of_letters_without_a_blank_trains_in_seconds():
    dna = "".join(draw.choices("acgt", k=100_000)).encode()  # cut at 1,000 bytes: time is linear in the text
    assert train_tokenizer([dna], vocab_size=400, name="dna").vocab_size == 400


def test_text_ends_where_its_distinct_words_fill_the_memory_given_to_them():
    various = [" ".join(str(draw.random())[2:] for _ in range(2000)).encode() for _ in range(100)]
    training = TrainingText(various, memory_bytes=10**6)
    list(training)
    assert training.stopped
    assert 10_000 < training.given < 100_000
    same = TrainingText([b"the same words again " * 1000] * 100, memory_bytes=10**6)
    list(same)
    assert (same.stopped, same.given) == (False, 2_100_000)


@pytest.mark.parametrize("text", ["abc", "aé", "a中", "a😀", ""])
def test_a_character_that_is_cut_is_left_out(text):
    whole = text.encode()
    for size in range(len(whole) + 1):
        assert text.startswith(whole_characters(whole[:size]).decode())
    assert whole_characters(whole) == whole
