"""Keys and tokens: known prefixes, private keys, and random strings that are assigned to a name like password."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from trainer.data.clean.personal.clues import Clues
from trainer.data.clean.personal.span import Span

PLACEHOLDER = "<key>"
LEAST_ENTROPY = 3.0  # bits per character, of 16 characters or more
# What a text must hold for the pattern to be worth trying, and the pattern.
KNOWN = (
    (("AKIA", "ASIA"), r"(?<![0-9A-Za-z])A(?:KIA|SIA)[0-9A-Z]{16}(?![0-9A-Za-z])"),  # Amazon
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"(?<![0-9A-Za-z])gh[pousr]_[0-9A-Za-z]{36,255}"),  # GitHub
    (("github_pat_",), r"github_pat_[0-9A-Za-z_]{22,255}"),
    (("glpat-",), r"glpat-[0-9A-Za-z_-]{20,}"),  # GitLab
    (("sk-",), r"(?<![0-9A-Za-z-])sk-(?:[A-Za-z]+-)*[0-9A-Za-z_-]{20,}"),  # OpenAI, Anthropic
    (("sk_live_", "rk_live_", "pk_live_"), r"[srp]k_live_[0-9A-Za-z]{16,}"),  # Stripe
    (("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-"), r"xox[bparse]-[0-9A-Za-z-]{10,}"),  # Slack
    (("AIza",), r"(?<![0-9A-Za-z])AIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])"),  # Google
    (("hf_",), r"(?<![0-9A-Za-z_])hf_[0-9A-Za-z]{30,}"),  # Hugging Face
    (("npm_",), r"(?<![0-9A-Za-z_])npm_[0-9A-Za-z]{36}"),
    (("pypi-",), r"pypi-[0-9A-Za-z_-]{40,}"),
    (("SG.",), r"(?<![0-9A-Za-z])SG\.[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{16,}"),  # SendGrid
    (("eyJ",), r"(?<![0-9A-Za-z_-])eyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}"),  # JSON web tokens
    (
        ("PRIVATE KEY-----",),
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----[\s\S]{1,10000}?-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----",
    ),
)
_KNOWN = tuple((marks, re.compile(pattern, re.ASCII)) for marks, pattern in KNOWN)
_NAMES = ("secret", "token", "passw", "api_key", "apikey", "api-key", "access_key")
_ASSIGNED = re.compile(
    r"(?:secret|token|passw(?:or)?d|api[_-]?key|access[_-]?key)[\w-]{0,20}[\"']?\s{0,3}(?:=|:|=>)\s{0,3}[\"']?"
    r"([0-9A-Za-z+/_=.-]{16,})",
    re.ASCII | re.IGNORECASE,
)


def find(text: str, clues: Clues) -> Iterator[Span]:
    """The keys in a text."""
    for marks, pattern in _KNOWN:
        if any(mark in text for mark in marks):
            for found in pattern.finditer(text):
                yield Span(*found.span())
    lower = text.lower()
    if len(lower) == len(text) and any(name in lower for name in _NAMES):
        for found in _ASSIGNED.finditer(text):
            if is_random(found[1]):
                yield Span(*found.span(1))


def is_random(text: str) -> bool:
    """Whether a string looks drawn: digits and letters, and at least LEAST_ENTROPY bits per character (Shannon)."""
    mixed = any(letter.isdigit() for letter in text) and any(letter.isalpha() for letter in text)
    return mixed and entropy(text) >= LEAST_ENTROPY


def entropy(text: str) -> float:
    """Bits per character, by the frequencies of the text's own characters."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())
