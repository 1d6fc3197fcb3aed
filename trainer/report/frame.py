"""What all pages have in common: one self-contained HTML file that fetches nothing, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from trainer.report.markup import Content, Markup, element
from trainer.report.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(
    title: str,
    body: Iterable[Content],
    *,
    style: str = "",
    pictures: bool = False,
    script: str = "",
    data: Any = None,
) -> str:
    """The whole page. `script` is all that it may run, by its hash; `data` is what that reads, as JSON.

    `pictures` allows those in data URIs.
    """
    policy = (
        POLICY + ("; img-src data:" if pictures else "") + (f"; script-src '{script_hash(script)}'" if script else "")
    )
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("title", None, title),
        element("style", None, Markup(STYLE + style)),
    )
    scripts: list[Markup] = []
    if data is not None:
        scripts.append(element("script", {"type": "application/json", "id": "data"}, Markup(json_in_html(data))))
    if script:
        scripts.append(element("script", None, Markup(script)))
    inner = element("body", None, element("main", None, body), scripts)
    return f"<!DOCTYPE html>\n{element('html', {'lang': 'en'}, head, inner)}\n"


def script_hash(script: str) -> str:
    """A script as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def json_in_html(data: Any) -> str:
    """JSON in which no text can end the element that it stands in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def section(title: str, *content: Content) -> Markup:
    """A part of the page under a heading."""
    return element("section", None, element("h2", None, title), content)


def note(*content: Content) -> Markup:
    """A remark."""
    return element("p", {"class": "soft"}, content)


def tiles(figures: Sequence[tuple[str, str]]) -> Markup:
    """The figures that matter most, each with what it is."""
    return element(
        "div",
        {"class": "tiles"},
        [
            element("div", {"class": "tile"}, element("b", None, value), element("span", None, what))
            for value, what in figures
        ],
    )
