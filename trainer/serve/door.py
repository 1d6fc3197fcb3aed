"""What every request passes before the front: a key, its limits, a bounded body in bounded time; and what it can't do.

Errors have OpenAI's shape, whatever raised them. Nothing of a request's content gets into one of the server's logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from trainer.config.serve import ServeSettings
from trainer.serve.keys import Client, find_client
from trainer.serve.requests import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = ("/", "/health", "/ready")
"""Without a key: the page, which holds nothing secret, and what balancers ask."""
CLIENT = "banyan.client"  # in a request's scope
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))

FAILED = Refused(500, "The server failed to answer; its log names the error.", kind="server_error")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Door:
    """ASGI middleware. `clients` is empty where anybody may ask."""

    def __init__(self, app: Any, settings: ServeSettings, clients: list[Client], refuse: Callable[[int], None]) -> None:
        self._app, self._settings, self._clients = app, settings, clients
        self._everybody = Client("everybody")
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        begun, refused_early = False, False
        body = _Body(receive, scope, self._settings)

        async def watched(message: Message) -> None:
            nonlocal begun, refused_early
            if message["type"] == "http.response.start":
                begun, refused_early = True, message["status"] >= 400 and not body.whole
                names = {name.lower() for name, _ in message.get("headers", [])}
                message["headers"] = [
                    *message.get("headers", []),
                    *(header for header in HEADERS if header[0] not in names),
                ]
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            try:  # a client that doesn't read must not keep a slot
                async with asyncio.timeout(self._settings.timeout_s):
                    await send({**message, "more_body": True} if ends and refused_early else message)
            except TimeoutError as error:
                raise ClientGone from error
            if ends and refused_early:
                await body.discard()
                await send({"type": "http.response.body", "body": b""})

        try:
            scope[CLIENT] = self._enter(scope)
            await self._app(scope, body, watched)
        except Refused as refused:
            self._refuse(refused.status)
            if not begun:
                await answer_json(watched, refused.status, refused.body(), refused.headers)
        except ClientGone:
            return
        except Exception as error:
            self._refuse(500)
            print(f"serve: {type(error).__name__} while answering {scope['path'][:100]!r}", flush=True)
            if not begun:
                await answer_json(watched, FAILED.status, FAILED.body(), {})

    def _enter(self, scope: Scope) -> Client:
        headers = {name.lower(): value for name, value in scope["headers"]}
        client: Client | None = self._everybody
        if self._clients and scope["path"] not in OPEN:
            client = find_client(self._clients, headers.get(b"authorization", b"").decode("latin-1"))
            if client is None:
                raise Refused(
                    401, "No valid key: send the header Authorization: Bearer KEY.", kind="authentication_error",
                    code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        assert client is not None
        if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and scope["method"] != "GET":
            raise Refused(403, "Another site's page may not ask.", kind="permission_error", code="cross_origin")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.body_bytes:
            raise body_too_large(self._settings.body_bytes)
        if scope["method"] == "POST" and scope["path"].startswith("/v1/"):
            wait = client.begin(self._settings.requests_per_minute, self._settings.tokens_per_minute)
            if wait > 0:
                raise Refused(
                    429, f"Too much in a minute for the key {client.name}; try again in {math.ceil(wait)} s.",
                    kind="rate_limit_error", code="rate_limit_exceeded", headers={"Retry-After": str(math.ceil(wait))},
                )  # fmt: skip
        return client


class _Body:
    """`receive`, until the request is `whole`: bounded in bytes and time. After that it waits for a disconnect."""

    def __init__(self, receive: Receive, scope: Scope, settings: ServeSettings) -> None:
        self._receive, self._settings = receive, settings
        self._came = 0
        self.whole = False
        self._deadline = asyncio.get_running_loop().time() + settings.timeout_s

    async def __call__(self) -> Message:
        """The next part."""
        if self.whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise Refused(408, f"The request took longer than {self._settings.timeout_s:g} s to come.") from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._came += len(message.get("body", b""))
        if self._came > self._settings.body_bytes:
            raise body_too_large(self._settings.body_bytes)
        self.whole = not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Takes what still comes, until the deadline: a client that still sends would not read the refusal."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline):
                while not self.whole:
                    message = await self._receive()
                    self.whole = message["type"] == "http.disconnect" or not message.get("more_body", False)


def body_too_large(most: int) -> Refused:
    """The refusal of a body."""
    return Refused(413, f"The request is larger than {most:,} bytes.", code="request_too_large")


async def answer_json(send: Send, status: int, content: Any, headers: dict[str, str]) -> None:
    """Answers with JSON."""
    body = json.dumps(content).encode()
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    lines += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
