"""Server-sent events, and clients that go before their answer has come."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi.responses import Response

from trainer.serve.door import ClientGone
from trainer.serve.requests import Refused

T = TypeVar("T")


class EventStream(Response):
    """A response of server-sent events; when the client goes, the answer is left, and its slot is free."""

    def __init__(self, chunks: AsyncGenerator[dict[str, Any]], done: Callable[[], None]) -> None:
        super().__init__()
        self._chunks, self._done = chunks, done
        self.background = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends what comes, until its end or the client's."""
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            await self._chunks.aclose()
            self._done()

    async def _send(self, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for chunk in self._chunks:
                await send(_event(json.dumps(chunk, ensure_ascii=False)))
                await asyncio.sleep(0)  # or what comes at once would be written to a client that has gone
            await send(_event("[DONE]"))
        except ClientGone:
            raise
        except Exception as error:
            refused = error if isinstance(error, Refused) else Refused(500, "The engine failed.", kind="server_error")
            await send(_event(json.dumps(refused.body())))
        await send({"type": "http.response.body", "body": b""})


def _event(data: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": f"data: {data}\n\n".encode("utf-8", "replace"), "more_body": True}


async def until_gone(receive: Any) -> None:
    """Waits until a client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Any, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, which is cancelled when the client goes. ClientGone then."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(until_gone(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for each in (task, leaving):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each
