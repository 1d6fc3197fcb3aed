"""What a character is, as a table over all code points: so that compiled code says of each what Python's str says.

classes = character_classes()          # uint16 (0x110000,)
classes[ord("a")] & ALPHABETIC
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np

SCRIPTS = Path(__file__).with_name("scripts.json")  # of OpenCC's characters those that one script alone has

SPACE = 1  # str.isspace
ALPHABETIC = 2  # str.isalpha
PUNCTUATION = 4  # PUNCTUATION_MARKS and TERMINAL_MARKS
TERMINAL = 8  # TERMINAL_MARKS
LINE_BREAK = 16  # str.splitlines ends a line there
HAN = 32  # Chinese characters
DIGIT = 64  # str.isdigit
UPPER = 128  # str.isupper
NUMERIC = 256  # str.isnumeric
ALPHANUMERIC = 512  # str.isalnum
TRADITIONAL = 1024  # Chinese characters that simplified texts don't have
SIMPLIFIED = 2048  # those that traditional texts don't have

# What datatrove 0.10.1 (Apache-2.0) counts as punctuation: words of these alone are symbols. Control characters too.
PUNCTUATION_MARKS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
_CONTROLS = (*range(9), 11, 12, *range(13, 32), *range(127, 160))

# Marks that end a sentence, in any script: those of datatrove's TERMINAL_PUNCTUATION, by code point.
TERMINAL_MARKS = "".join(
    map(
        chr,
        (
            0x0021,
            0x002E,
            0x003F,
            0x0589,
            0x061D,
            0x061E,
            0x061F,
            0x06D4,
            0x0700,
            0x0701,
            0x0702,
            0x07F9,
            0x0837,
            0x0839,
            0x083D,
            0x083E,
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
            0x17D4,
            0x17D5,
            0x17D6,
            0x17D9,
            0x17DA,
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
            0x1B7D,
            0x1B7E,
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
            0x2E53,
            0x2E54,
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
            0x10F55,
            0x10F56,
            0x10F57,
            0x10F58,
            0x10F59,
            0x10F86,
            0x10F87,
            0x10F88,
            0x10F89,
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
            0x11944,
            0x11946,
            0x11A42,
            0x11A43,
            0x11A9B,
            0x11A9C,
            0x11C41,
            0x11C42,
            0x11EF7,
            0x11EF8,
            0x11F43,
            0x11F44,
            0x16A6E,
            0x16A6F,
            0x16AF5,
            0x16B37,
            0x16B38,
            0x16B44,
            0x16E98,
            0x1BC9F,
            0x1DA88,
        ),
    )
)

HAN_RANGES = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))  # unified ideographs


@cache
def character_classes() -> np.ndarray:
    """The table: uint16 (0x110000,), the classes of each code point added up; read only. It takes 0.3 s, once."""
    classes = np.zeros(sys.maxunicode + 1, np.uint16)
    for point in range(sys.maxunicode + 1):
        letter = chr(point)
        classes[point] = (
            SPACE * letter.isspace()
            | ALPHABETIC * letter.isalpha()
            | DIGIT * letter.isdigit()
            | UPPER * letter.isupper()
            | NUMERIC * letter.isnumeric()
            | ALPHANUMERIC * letter.isalnum()
        )
    scripts = json.loads(SCRIPTS.read_text(encoding="utf-8"))
    for marks, kind in (
        (PUNCTUATION_MARKS, PUNCTUATION),
        ("".join(map(chr, _CONTROLS)), PUNCTUATION),
        (TERMINAL_MARKS, PUNCTUATION | TERMINAL),
        ("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", LINE_BREAK),
        (scripts["traditional"], TRADITIONAL),
        (scripts["simplified"], SIMPLIFIED),
    ):
        for mark in marks:
            classes[ord(mark)] |= kind
    for first, last in HAN_RANGES:
        classes[first : last + 1] |= HAN
    classes.flags.writeable = False
    return classes


def code_points(text: str) -> np.ndarray:
    """The code points of a text: uint32 (characters,), read only."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
