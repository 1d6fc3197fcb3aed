"""How many sentences a line of English has, as spaCy's sentencizer counts them on its tokenizer's words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

from trainer.data.clean.english.pieces import english_pieces

# The marks that end a sentence: spaCy 3.8's Sentencizer.default_punct_chars.
MARKS = frozenset(
    map(
        chr,
        (
            0x0021,
            0x002E,
            0x003F,
            0x0589,
            0x061F,
            0x06D4,
            0x0700,
            0x0701,
            0x0702,
            0x07F9,
            0x0964,
            0x0965,
            0x104A,
            0x104B,
            0x1362,
            0x1367,
            0x1368,
            0x166E,
            0x1735,
            0x1736,
            0x1803,
            0x1809,
            0x1944,
            0x1945,
            0x1AA8,
            0x1AA9,
            0x1AAA,
            0x1AAB,
            0x1B5A,
            0x1B5B,
            0x1B5E,
            0x1B5F,
            0x1C3B,
            0x1C3C,
            0x1C7E,
            0x1C7F,
            0x203C,
            0x203D,
            0x2047,
            0x2048,
            0x2049,
            0x2E2E,
            0x2E3C,
            0x3002,
            0xA4FF,
            0xA60E,
            0xA60F,
            0xA6F3,
            0xA6F7,
            0xA876,
            0xA877,
            0xA8CE,
            0xA8CF,
            0xA92F,
            0xA9C8,
            0xA9C9,
            0xAA5D,
            0xAA5E,
            0xAA5F,
            0xAAF0,
            0xAAF1,
            0xABEB,
            0xFE52,
            0xFE56,
            0xFE57,
            0xFF01,
            0xFF0E,
            0xFF1F,
            0xFF61,
            0x10A56,
            0x10A57,
            0x11047,
            0x11048,
            0x110BE,
            0x110BF,
            0x110C0,
            0x110C1,
            0x11141,
            0x11142,
            0x11143,
            0x111C5,
            0x111C6,
            0x111CD,
            0x111DE,
            0x111DF,
            0x11238,
            0x11239,
            0x1123B,
            0x1123C,
            0x112A9,
            0x1144B,
            0x1144C,
            0x115C2,
            0x115C3,
            0x115C9,
            0x115CA,
            0x115CB,
            0x115CC,
            0x115CD,
            0x115CE,
            0x115CF,
            0x115D0,
            0x115D1,
            0x115D2,
            0x115D3,
            0x115D4,
            0x115D5,
            0x115D6,
            0x115D7,
            0x11641,
            0x11642,
            0x1173C,
            0x1173D,
            0x1173E,
            0x11A42,
            0x11A43,
            0x11A9B,
            0x11A9C,
            0x11C41,
            0x11C42,
            0x16A6E,
            0x16A6F,
            0x16AF5,
            0x16B37,
            0x16B38,
            0x16B44,
            0x1BC9F,
            0x1DA88,
        ),
    )
)


_A_MARK = re.compile(f"[{''.join(map(re.escape, sorted(MARKS)))}]")


def count_sentences(text: str, most: int) -> int:
    """Sentences in a text, at least 1; counting ends at `most`.

    One ends at a word that is a mark, and takes the punctuation after it; white space of more than a blank is a word.
    """
    count, after_mark = 1, False
    first = _A_MARK.search(text)
    if first is None or first.end() == len(text):
        return 1
    text = text[text.rfind(" ", 0, first.start()) + 1 :]  # no word before is a mark
    for word in _words(text):
        if word in MARKS:
            after_mark = True
        elif after_mark and not _is_punctuation(word):
            count, after_mark = count + 1, False
            if count >= most:
                break
    return count


def _words(text: str) -> Iterator[str]:
    """The words, with white space other than a single blank between two words."""
    for blank, run in groupby(text, str.isspace):
        chunk = "".join(run)
        if not blank:
            yield from _pieces(chunk)
        elif rest := chunk.removeprefix(" "):
            yield rest


@lru_cache(maxsize=2**14)
def _is_punctuation(word: str) -> bool:
    return all(unicodedata.category(letter).startswith("P") for letter in word)


@lru_cache(maxsize=2**16)
def _pieces(chunk: str) -> tuple[str, ...]:
    return tuple(english_pieces().split(chunk))
