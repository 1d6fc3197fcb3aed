"""The engine that always works: our decoder, or Hugging Face's own code, in this process, with a cache for each answer.

Answers take turns, a token of each at a time. Their tokens are those of `banyan generate`, to the last bit.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.evaluate.sampling import decode_stream, next_logits, sample
from trainer.model.build import LanguageModel
from trainer.serve.engines.engine import Ask, EngineBusy, EngineSettings, Piece, TokenInfo
from trainer.serve.watermark import Mark, favour


@dataclass
class _Answer:
    """One answer under way, in the engine's thread."""

    ask: Ask
    emit: Callable[[Piece | Exception], None]
    cancelled: bool = False
    done: bool = False
    fresh: list[TokenInfo] = field(default_factory=list)
    end: str | None = None
    pieces: Iterator[str] | None = None


class TorchEngine:
    """See the head of this file. `mark` is the watermark that answers get."""

    name = "torch"

    def __init__(
        self, settings: EngineSettings, model: LanguageModel, tokenizer: Tokenizer, mark: Mark | None = None
    ) -> None:
        self.precision = settings.precision
        self._settings = settings
        self._model, self._tokenizer, self._mark = model, tokenizer, mark
        self._arrived: deque[_Answer] = deque()
        self._active: list[_Answer] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="torch-engine", daemon=True)
        self._thread.start()

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        """An answer as it comes."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Piece | Exception]()

        def emit(piece: Piece | Exception) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, piece)

        answer = _Answer(ask, emit)
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if self.running() >= self._settings.slots and self.waiting() >= self._settings.waiting:
                raise EngineBusy
            self._arrived.append(answer)
            self._wake.notify()
        try:
            while True:
                piece = await queue.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.end is not None:
                    return
        finally:
            answer.cancelled = True

    def running(self) -> int:
        """Answers that are computed at the moment."""
        return sum(not (answer.cancelled or answer.done) for answer in list(self._active))

    def waiting(self) -> int:
        """Answers that wait for a slot."""
        return sum(not answer.cancelled for answer in list(self._arrived))

    def close(self) -> None:
        """Ends the thread; answers under way end with an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(30)

    def _work(self) -> None:
        torch.set_num_threads(self._settings.threads)
        while True:
            with self._wake:
                while not (self._active or self._arrived or self._closed):
                    self._wake.wait()
                if self._closed:
                    break
                while self._arrived and len(self._active) < self._settings.slots:
                    self._active.append(self._arrived.popleft())
                    self._active[-1].ask.started()
            for answer in list(self._active):
                if answer.cancelled or not self._step(answer):
                    self._active.remove(answer)
        for answer in (*self._active, *self._arrived):
            answer.emit(RuntimeError("the engine was closed"))
        self._active.clear()
        self._model = None  # type: ignore[assignment]

    def _step(self, answer: _Answer) -> bool:
        """Takes one answer up to its next piece; whether it goes on."""
        try:
            if answer.pieces is None:
                answer.pieces = decode_stream(self._tokenizer, answer.ask.ids, self._tokens(answer))
            text = next(answer.pieces, None)
        except Exception as error:
            answer.done = True
            answer.emit(error)
            return False
        answer.done = text is None  # before anybody hears of it
        tokens, answer.fresh = tuple(answer.fresh), []
        answer.emit(Piece(text or "", tokens, answer.end if text is None else None))
        return text is not None

    def _tokens(self, answer: _Answer) -> Iterator[int]:
        """Samples to the end. The prompt and the answer together are never longer than the context."""
        ask = answer.ask
        seed = random.getrandbits(62) if ask.seed is None else ask.seed
        generator = torch.Generator("cpu").manual_seed(seed)
        mark = self._mark.processor() if self._mark is not None else None
        seen, fresh, cache = list(ask.ids), list(ask.ids), self._model.new_cache(self._settings.context)
        for _ in range(ask.max_tokens):
            if answer.cancelled:
                return
            logits = next_logits(self._model, fresh, cache)
            biased = favour(mark, seen, logits) if mark is not None else logits
            token = sample(biased, ask.temperature, ask.top_k, ask.top_p, generator)
            if token in ask.ends:
                answer.end = "stop"
                return
            answer.fresh.append(_describe(token, logits, ask))
            yield token
            fresh = [token]
            seen.append(token)
        answer.end = "length"


def _describe(token: int, logits: Tensor, ask: Ask) -> TokenInfo:
    if not ask.logprobs:
        return TokenInfo(token)
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(min(ask.top, len(logprobs))) if ask.top else (torch.empty(0), torch.empty(0))
    top = tuple(zip(map(int, ids.tolist()), values.tolist(), strict=True))
    return TokenInfo(token, float(logprobs[token]), top)
