"""llama.cpp through xllamacpp: its server in this process, on a GGUF file that `banyan export` wrote.

It is given ids, and gives ids and their log-probabilities back. In f32 its cache is f32 (its default is f16),
without flash attention, so that its answers are those of the other engines.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import ConfigError
from trainer.evaluate.sampling import decode_stream
from trainer.serve.engines.engine import Ask, EngineBusy, EngineSettings, Piece, TokenInfo

MISSING = "serve.engine=llama_cpp needs the package xllamacpp, which isn't installed: pip install xllamacpp."
SOCKET_S = 600.0


class LlamaCppEngine:
    """See the head of this file. `settings.folder` holds the GGUF file alone."""

    name = "llama_cpp"

    def __init__(self, settings: EngineSettings, tokenizer: Tokenizer) -> None:
        try:
            import xllamacpp
        except ImportError as error:
            raise ConfigError(MISSING) from error
        [file] = settings.folder.glob("*.gguf")
        wanted = xllamacpp.CommonParams()
        wanted.model.path = str(file)
        wanted.n_parallel, wanted.n_ctx = settings.slots, settings.context * settings.slots
        wanted.cpuparams.n_threads, wanted.port, wanted.verbosity = settings.threads, 0, -1
        wanted.cpuparams_batch.n_threads = settings.threads
        if settings.precision == "f32":
            wanted.cache_type_k = wanted.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            wanted.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.precision = settings.precision
        self._settings, self._tokenizer = settings, tokenizer
        self._server = xllamacpp.Server(wanted)
        place = urlsplit(self._server.listening_address)
        self._host, self._port = str(place.hostname), int(place.port or 0)
        self._slots = asyncio.Semaphore(settings.slots)
        self._running = self._waiting = 0

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        """An answer as it comes; a thread of its own reads it from llama.cpp's server."""
        if self._waiting >= self._settings.waiting and self._slots.locked():
            raise EngineBusy
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        ask.started()
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Piece | Exception]()
        reader = _Reader(self._host, self._port, ask, self._tokenizer, lambda piece: _put(loop, queue, piece))
        reader.start()
        try:
            while True:
                piece = await queue.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.end is not None:
                    return
        finally:
            reader.cancel()
            self._running -= 1
            self._slots.release()

    def running(self) -> int:
        """Answers that are computed at the moment."""
        return self._running

    def waiting(self) -> int:
        """Answers that wait for a slot."""
        return self._waiting

    def close(self) -> None:
        """llama.cpp's server ends with the last reference to it."""
        self._server = None


def _put(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Any], piece: Piece | Exception) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(queue.put_nowait, piece)


class _Reader(threading.Thread):
    """Reads one answer; `cancel` closes the connection, at which llama.cpp frees the slot."""

    def __init__(
        self, host: str, port: int, ask: Ask, tokenizer: Tokenizer, emit: Callable[[Piece | Exception], None]
    ) -> None:
        super().__init__(name="llama-cpp-answer", daemon=True)
        self._connection = HTTPConnection(host, port, timeout=SOCKET_S)
        self._ask, self._tokenizer, self._emit = ask, tokenizer, emit
        self._fresh: list[TokenInfo] = []
        self._end: str | None = None
        self._cancelled = False

    def run(self) -> None:
        try:
            for text in decode_stream(self._tokenizer, self._ask.ids, self._tokens()):
                tokens, self._fresh = tuple(self._fresh), []
                self._emit(Piece(text, tokens))
            self._emit(Piece("", tuple(self._fresh), self._end or "stop"))
        except Exception as error:
            if not self._cancelled:
                self._emit(error)
        finally:
            self._connection.close()

    def cancel(self) -> None:
        self._cancelled = True
        socket = self._connection.sock
        if socket is not None:
            try:
                socket.shutdown(2)
            except OSError:
                return

    def _tokens(self) -> Iterator[int]:
        ask = self._ask
        body = {
            "prompt": ask.ids,
            "n_predict": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "top_k": ask.top_k,
            "min_p": 0.0,
            "samplers": ["top_k", "top_p", "temperature"] if ask.temperature else ["top_k"],
            "seed": random.getrandbits(32) if ask.seed is None else ask.seed % 2**32,
            "n_probs": max(1, ask.top) if ask.logprobs else 0,
            "ignore_eos": False,
            "stream": True,
            "return_tokens": True,
        }
        self._connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"llama.cpp answered {response.status}: {response.read(500).decode(errors='replace')}")
        count = 0
        for line in response:
            if not line.startswith(b"data: ") or self._cancelled:
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(f"llama.cpp: {event['error']}")
            if event.get("stop"):
                self._end = "length" if event.get("stop_type") == "limit" else "stop"
                return
            infos = event.get("completion_probabilities") or []
            for place, token in enumerate(event["tokens"]):
                if token in ask.ends:
                    self._end = "stop"
                    return
                count += 1
                self._fresh.append(_info(token, infos[place] if place < len(infos) else None, ask))
                yield token
                if count == ask.max_tokens:
                    self._end = "length"
                    return


def _info(token: int, told: dict[str, Any] | None, ask: Ask) -> TokenInfo:
    if told is None or not ask.logprobs:
        return TokenInfo(token)
    top = tuple((int(each["id"]), float(each["logprob"])) for each in told.get("top_logprobs", [])[: ask.top])
    return TokenInfo(token, float(told["logprob"]), top)
