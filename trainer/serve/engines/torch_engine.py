"""The engine that always works: our decoder, or Hugging Face's own code, in this process.

Answers under way are computed together (batch_decoder.py). Greedy ones are those of `banyan generate`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator

import torch

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.model.build import LanguageModel
from trainer.serve.engines.batch_decoder import AnswerRow, BatchDecoder
from trainer.serve.engines.engine import Ask, EngineSettings, Piece, TokenInfo
from trainer.serve.engines.pieces import PieceMaker, PieceQueue
from trainer.serve.engines.slots import Slots
from trainer.serve.watermark import Mark


class _Answer:
    """One answer under way; made in the event loop, told of by the engine's thread."""

    def __init__(self, ask: Ask, tokenizer: Tokenizer) -> None:
        self.ask, self.queue = ask, PieceQueue()
        self._maker = PieceMaker(tokenizer, ask)
        self.is_over = False

    def tell(self, token: TokenInfo | Exception) -> None:
        """Passes on what its next token lets be shown."""
        try:
            piece = token if isinstance(token, Exception) else self._maker.feed(token)
        except Exception as error:  # a tokenizer of others
            piece = error
        if piece is None or self.is_over:
            return
        self.is_over = isinstance(piece, Exception) or piece.end is not None
        self.queue.put(piece)


class TorchEngine:
    """See the head of this file. `mark` is the watermark that answers get."""

    name = "torch"

    def __init__(
        self, settings: EngineSettings, model: LanguageModel, tokenizer: Tokenizer, mark: Mark | None = None
    ) -> None:
        self.precision = settings.precision
        self._tokenizer, self._threads = tokenizer, settings.threads
        self._slots = Slots(settings)
        self._arrived: list[_Answer] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(
            target=self._work, args=(BatchDecoder(model, mark),), name="torch-engine", daemon=True
        )
        self._thread.start()

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        """An answer as it comes."""
        async with self._slots.one(ask):
            answer = _Answer(ask, self._tokenizer)
            with self._wake:
                if self._closed:
                    raise RuntimeError("the engine is closed")
                self._arrived.append(answer)
                self._wake.notify()
            try:
                async with contextlib.aclosing(answer.queue.pieces()) as pieces:
                    async for piece in pieces:
                        yield piece
            finally:
                answer.is_over = True

    def running(self) -> int:
        """Answers that are computed at the moment."""
        return self._slots.running

    def waiting(self) -> int:
        """Answers that wait for a slot."""
        return self._slots.waiting

    def close(self) -> None:
        """Ends the thread; answers under way end with an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(30)

    def _work(self, decoder: BatchDecoder) -> None:
        torch.set_num_threads(self._threads)
        active: dict[AnswerRow, _Answer] = {}
        while True:
            with self._wake:
                while not (active or self._arrived or self._closed):
                    self._wake.wait()
                arrived, self._arrived = self._arrived, []
                if self._closed:
                    break
            active |= {decoder.begin(answer.ask): answer for answer in arrived}
            active = {row: answer for row, answer in active.items() if not answer.is_over}
            for row, token in decoder.step(list(active)):
                active[row].tell(token)
        for answer in (*active.values(), *arrived):
            answer.tell(RuntimeError("the engine was closed"))
