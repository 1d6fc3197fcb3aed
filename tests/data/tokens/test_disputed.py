"""gigatoken and `tokenizers` must agree about every character that isn't listed as disputed."""

import random

import gigatoken
import pytest

from tests.data.tokens.published import REGEXES, byte_level
from trainer.data.tokens.disputed import DisputedSearch, disputed

CONTEXTS = (
    "a{}1",
    "1{}1",
    "!{}! {}a",
    "Z{}a{}'s",
    "\n{}{}\n",
    "中{}中",
    "1\u0301{}",
    "1\u0345{}1{}\u0323",
    "1{}\u05b0{}",
)
SECONDS = "\u0301\u0307\u0345\u0323\u3099\u09be\U000113c9\U000113bb\U000113c2\U000113b8\U00011930\U0001611e\U00016d67"
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
ASSIGNED = [c for c in CHARACTERS if c < "\U00034000" or "\U000e0000" <= c < "\U000e0200" or ord(c) % 0x1000 == 0]


def differing(engine, characters, contexts):
    """Of `characters`, those with other ids."""
    fast = gigatoken.Tokenizer.from_json(engine.to_str())
    found = set()
    for context in contexts:
        texts = [context.format(character, character) for character in characters]
        for character, text, encoding in zip(
            characters, texts, engine.encode_batch(texts, add_special_tokens=False), strict=True
        ):
            if fast.encode(text.encode()).tolist() != encoding.ids:
                found.add(character)
    return found


@pytest.mark.full
@pytest.mark.parametrize("nfc", [False, True])
@pytest.mark.parametrize("name", REGEXES)
def test_encoders_agree_on_all_of_unicode_but_what_is_disputed(name, nfc):
    contexts = [*CONTEXTS, *("{}" + second for second in SECONDS)] if nfc else CONTEXTS
    assert differing(byte_level(name, nfc=nfc), ASSIGNED, contexts) <= disputed()


def test_encoders_agree_on_characters_drawn_from_unicode_and_beside_disputed_ones():
    draw = random.Random()
    beside = {chr(ord(c) + step) for c in disputed() for step in (-1, 1)} - disputed()
    drawn = [*draw.sample(ASSIGNED, 1000), *draw.sample(sorted(beside), 100)]
    wrong = set()
    for name in REGEXES:
        wrong |= differing(byte_level(name, nfc=True), drawn, CONTEXTS[:5])
    assert wrong <= disputed()


def test_they_disagree_at_all():
    """Once they no longer do, the list has had its day."""
    letter, mark, symbol = "\u088f", "\u1acf", "\u20c1"  # of Unicode 17
    assert differing(byte_level("gpt2"), [letter], CONTEXTS) == {letter}
    assert differing(byte_level("o200k"), [mark], CONTEXTS) == {mark}
    assert differing(byte_level("deepseek"), [symbol], CONTEXTS) == {symbol}


def test_a_text_with_a_disputed_character_gets_the_ids_of_tokenizers():
    from trainer.data.tokens.encoder import Encoder
    from trainer.data.tokens.tokenizer import Tokenizer

    engine = byte_level("qwen2", nfc=True)
    encoder = Encoder(Tokenizer("qwen", engine.to_str(), "<|endoftext|>"), "gigatoken")
    for character in sorted(disputed()):
        text = f"a{character}1 1\u0301{character}"
        assert [id for piece in encoder.encode(text.encode()) for id in piece.tolist()] == engine.encode(text).ids


def test_the_search_finds_each_disputed_character_and_no_other():
    search, wanted = DisputedSearch(), disputed()
    assert {character for character in CHARACTERS if search(character.encode())} == wanted
    long = "中文한국어😀 ภาษาไทย हिन्दी ﷺ " * 200
    assert not search(long.encode())
    for character in sorted(wanted)[::50]:
        assert search((long + character).encode())
        assert search((character + long).encode())


@pytest.mark.parametrize("texts", [2000, pytest.param(100_000, marks=pytest.mark.full)])
def test_encoders_agree_on_random_texts_without_disputed_characters(texts):
    draw, left_out = random.Random(), disputed()
    pool = [c for c in ASSIGNED if c not in left_out and c < "\U00020000"]
    common = [
        *map(chr, range(1, 127)),
        "'s",
        "'LL",
        "\r\n",
        "'ſ",
        "\u0301",
        "K",
        "\u3000",
        "\x85",
        "1" * 5,
        "  ",
        "\n\n",
    ]
    drawn = [
        "".join(draw.choice(draw.choice((pool, common))) for _ in range(draw.randint(1, 30))) for _ in range(texts)
    ]
    for name in REGEXES:
        assert not differing(byte_level(name, nfc=True), drawn, ["{}"])
