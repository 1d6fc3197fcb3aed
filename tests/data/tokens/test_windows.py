"""A long text gets the same ids in windows as at once."""

import random

import numpy as np
import pytest

from tests.corpus import WORDS, write_texts
from tests.data.tokens.published import REGEXES, byte_level, sentencepiece, unigram, wordpiece
from trainer.data.tokens.windows import encode_long

TEXTS = [*write_texts(100), "床前明月光，疑是地上霜。", "def f(x):\n    return x + 1\n\n\n"]


def engines():
    """Tokenizers of every kind."""
    from tokenizers import normalizers, pre_tokenizers, processors

    found = {name: byte_level(name, nfc=True) for name in REGEXES}
    found |= {"llama2": sentencepiece(TEXTS), "one word": sentencepiece(TEXTS, split=False)}
    found |= {"unigram": unigram(TEXTS), "wordpiece": wordpiece(TEXTS)}
    trimming = byte_level("gpt2")
    trimming.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    trimming.post_processor = processors.ByteLevel(trim_offsets=True)
    trimming.add_tokens(["    ", "tion", "ee g"])
    stripping = byte_level("gpt2")
    stripping.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFD(), normalizers.Lowercase()])
    return found | {"trimming": trimming, "stripping": stripping}


def texts(draw, size):
    """Texts in which windows are hard to join."""
    yield "unbroken", "".join(draw.choices("acgt", k=size))
    yield "digits", "".join(draw.choices("0123456789", k=size))
    yield "blanks", "x" + " " * size + "y"
    yield "one letter", "a" * size
    yield "one digit", "1" * size
    yield "lines", "\n" * (size // 2) + "x\r\n" + "\r\n" * (size // 4)
    yield "marks", "e" + "\u0301" * (size // 2)
    yield "chinese", "".join(draw.choices("床前明月光，疑是地上霜。举头望明月", k=size // 3))
    yield "emoji", "".join(draw.choices("😀👩\u200d👧🥰é ", k=size // 3))
    yield "words", " ".join(draw.choices(WORDS, k=size // 5))
    yield (
        "mixed",
        "".join(
            draw.choice(("  ", "\n", "1" * 700, "the tree's ", "acgt" * 300, "中文", "é", "'LL", "    "))
            for _ in range(size // 100)
        ),
    )


@pytest.mark.parametrize("size", [12_000, pytest.param(400_000, marks=pytest.mark.full)])
def test_windows_give_the_ids_of_the_whole(size):
    draw = random.Random()
    for name, engine in engines().items():
        for kind, text in texts(draw, size):
            pieces = encode_long(engine, text.encode(), size=max(3000, size // 8))
            whole = engine.encode(text, add_special_tokens=False).ids
            assert np.array_equal(np.concatenate(pieces), whole), (name, kind)


def test_a_window_is_all_that_is_encoded_at_once():
    longest = [0]

    class Engine:
        def __init__(self):
            self.engine = byte_level("llama3")

        def encode(self, text, **options):
            longest[0] = max(longest[0], len(text))
            return self.engine.encode(text, **options)

    for text in ("the tree grows " * 20_000, "acgt" * 50_000, "1" * 200_000, " " * 200_000):
        encode_long(Engine(), text.encode(), size=20_000)
    assert longest[0] == 20_000
