"""The page at `/`: one HTML file that talks to the API beside it, under a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("page.html")


@cache
def page_with_headers() -> tuple[bytes, dict[str, str]]:
    """The page and the headers that it is sent with; its one script and one style are allowed by their hashes."""
    text = FILE.read_text(encoding="utf-8")
    policy = [
        "default-src 'none'",
        f"script-src {_hash_of(text, 'script')}",
        f"style-src {_hash_of(text, 'style')}",
        "connect-src 'self'",
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    ]
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    return text.encode(), headers


def _hash_of(text: str, tag: str) -> str:
    found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in found)


def page_routes(card: Callable[[], str]) -> Any:
    """A router with `/`, which holds nothing secret, and `/card`: the text of the model's card as it is now."""
    from fastapi import APIRouter
    from fastapi.responses import PlainTextResponse, Response

    router = APIRouter()

    @router.get("/")
    def show_page() -> Response:
        """The page, for whoever asks: its user types the key."""
        content, headers = page_with_headers()
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)

    @router.get("/card")
    def show_card() -> PlainTextResponse:
        """The model's card as plain text."""
        return PlainTextResponse(card(), headers={"X-Content-Type-Options": "nosniff"})

    return router
