"""Public addresses of the Internet protocol, versions 4 and 6; private, local and reserved ones are nobody's."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from trainer.data.clean.personal.clues import Clues
from trainer.data.clean.personal.span import Span

PLACEHOLDER = "<ip>"
_V4 = re.compile(r"(?<![\d.A-Za-z-])(?:\d{1,3}\.){3}\d{1,3}(?![\d-]|\.\d|[A-Za-z])", re.ASCII)
_V6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){2,7}(?:::)?(?![\w:])", re.ASCII)


def find(text: str, clues: Clues) -> Iterator[Span]:
    """The public addresses in a text. A version number of four parts looks the same, and is masked too."""
    for stretch in clues.stretches:
        if stretch.dots >= 3:
            for found in _V4.finditer(text, stretch.start, stretch.stop + 2):
                if is_public(found[0]):
                    yield Span(*found.span())
    if clues.colons >= 2:
        for found in _V6.finditer(text):
            if is_public(found[0]):
                yield Span(*found.span())


def is_public(text: str) -> bool:
    """Whether it is an address that anyone may have."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False
