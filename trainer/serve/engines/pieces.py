"""An answer's tokens as pieces of text, and their way from an engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.evaluate.sampling import TextStream
from trainer.serve.engines.engine import Ask, Piece, TokenInfo


class PieceMaker:
    """Pieces of one answer, of whole characters each, with the tokens that they are of; it knows where to end."""

    def __init__(self, tokenizer: Tokenizer, ask: Ask) -> None:
        self._ask, self._text = ask, TextStream(tokenizer, ask.ids)
        self._fresh: list[TokenInfo] = []
        self._count = 0

    def feed(self, token: TokenInfo) -> Piece | None:
        """What one more token lets be shown; the last piece where the answer ends with it."""
        if token.id in self._ask.ends:
            return self.finish("stop")
        self._fresh.append(token)
        self._count += 1
        text = self._text.feed(token.id)
        if self._count == self._ask.max_tokens:
            return self._piece(text + self._text.finish(), "length")
        return self._piece(text, None) if text else None

    def finish(self, end: str) -> Piece:
        """The last piece, where the engine ends the answer."""
        return self._piece(self._text.finish(), end)

    def _piece(self, text: str, end: str | None) -> Piece:
        tokens, self._fresh = tuple(self._fresh), []
        return Piece(text, tokens, end)


class PieceQueue:
    """From any thread to the loop that it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = asyncio.Queue[Piece | Exception]()

    def put(self, piece: Piece | Exception) -> None:
        """The next piece, or why there is none."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)

    async def pieces(self) -> AsyncGenerator[Piece]:
        """As they come, to the one that has an end; an exception is raised."""
        while True:
            piece = await self._queue.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.end is not None:
                return
