"""HTML that is built, not glued together: text and attributes are escaped, whatever they hold.

element("p", {"class": "note"}, "a < b")  →  <p class="note">a &lt; b</p>
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

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
    head: Iterable[Content], rows: Iterable[Iterable[Content]], *, texts: int = 1, words: tuple[int, ...] = ()
) -> Markup:
    """A table that can be scrolled sideways; its first `texts` columns are texts, and `words`, the others numbers."""

    def kind(place: int) -> dict[str, str] | None:
        return None if place < texts or place in words else {"class": "number"}

    def cells(name: str, row: Iterable[Content]) -> Markup:
        return element(
            "tr",
            None,
            [
                element(name, None if place < texts or place in words else {"class": "number"}, cell)
                for place, cell in enumerate(row)
            ],
        )

    inner = element(
        "table", None, element("thead", None, cells("th", head)), element("tbody", None, [cells("td", r) for r in rows])
    )
    return element("div", {"class": "scroll"}, inner)


def bar(share: float, kind: str = "", *, lost: float = 0.0) -> Markup:
    """A bar that fills a share of its cell, then what was `lost` beside it."""
    parts = [element("span", {"class": f"fill {kind}".strip(), "style": f"width:{100 * share:.2f}%"})]
    if lost:
        parts.append(element("span", {"class": "fill lost", "style": f"width:{100 * lost:.2f}%"}))
    return element("span", {"class": "bar", "aria-hidden": "true"}, parts)
