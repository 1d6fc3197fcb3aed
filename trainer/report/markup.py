"""HTML that is built, not glued together: text and attributes are escaped, whatever they hold.

element("p", {"class": "note"}, "a < b")  →  <p class="note">a &lt; b</p>
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from itertools import zip_longest

from trainer.machine.terminal import safe

EMPTY = ("br", "hr", "img", "input", "meta", "wbr")  # elements without an end


class Markup(str):
    """A piece of HTML; any other string is text."""

    __slots__ = ()


Content = str | Iterable["Content"]
"""Text, markup, or several of them."""


def markup_of(content: Content) -> Markup:
    """Content as HTML: text is escaped, and characters that would turn the direction of writing are shown."""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(html.escape(safe(content)))
    return Markup("".join(map(markup_of, content)))


def element(name: str, attributes: Mapping[str, str] | None = None, *content: Content) -> Markup:
    """An element with its attributes and content."""
    opened = "".join(f' {key}="{html.escape(safe(value))}"' for key, value in (attributes or {}).items())
    if name in EMPTY:
        return Markup(f"<{name}{opened}>")
    return Markup(f"<{name}{opened}>{markup_of(content)}</{name}>")


def table(
    head: Iterable[str],
    rows: Iterable[Iterable[Content]],
    *,
    texts: int = 1,
    words: tuple[int, ...] = (),
    cards: bool = False,
) -> Markup:
    """A table that can be scrolled sideways; its first `texts` columns are texts, and `words`, the others numbers.

    With `cards`, on a narrow screen each row is a list of its cells with their names, and nothing is scrolled.
    """
    names = list(head)

    def attributes(place: int, name: str = "") -> dict[str, str]:
        kind = {} if place < texts or place in words else {"class": "number"}
        return kind | ({"data-name": name} if cards and name else {})

    headings = [element("th", attributes(place), name) for place, name in enumerate(names)]
    lines = [
        element(
            "tr",
            None,
            [
                element("td", attributes(place, name), cell)
                for place, (name, cell) in enumerate(zip_longest(names, row, fillvalue=""))
            ],
        )
        for row in rows
    ]
    inner = element(
        "table",
        {"class": "cards"} if cards else None,
        element("thead", None, element("tr", None, headings)),
        element("tbody", None, lines),
    )
    return element("div", {"class": "scroll"}, inner)


def bar(share: float, kind: str = "", *, lost: float = 0.0) -> Markup:
    """A bar that fills a share of its cell, then what was `lost` beside it."""
    parts = [element("span", {"class": f"fill {kind}".strip(), "style": f"width:{100 * share:.2f}%"})]
    if lost:
        parts.append(element("span", {"class": "fill lost", "style": f"width:{100 * lost:.2f}%"}))
    return element("span", {"class": "bar", "aria-hidden": "true"}, parts)
