"""E-mail addresses, found from their @."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainer.data.clean.personal.clues import Clues
from trainer.data.clean.personal.span import Span

PLACEHOLDER = "<email>"
LONGEST_LOCAL, LONGEST_DOMAIN = 64, 253  # characters (RFC 5321, section 4.5.3.1)
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*\Z")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+(?:[A-Za-z]{2,63}|xn--[A-Za-z0-9-]{1,59})")
_EDGES = ".'`*/=!#$%&?^{|}~-"  # of a local part that are text around it


def find(text: str, clues: Clues) -> Iterator[Span]:
    """The addresses in a text, from left to right."""
    at, last = text.find("@"), 0
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1, at + 1 + LONGEST_DOMAIN)
        if domain:
            begin = max(last, at - LONGEST_LOCAL)
            local = _LOCAL.search(text[begin:at])
            before = local[0].lstrip(_EDGES) if local else ""
            if before and not before.endswith(".") and ".." not in before:
                last = domain.end()
                yield Span(at - len(before), last)
        at = text.find("@", max(at + 1, last))
