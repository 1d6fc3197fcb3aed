"""llama.cpp through xllamacpp: its server in this process, on a GGUF file that `banyan export` wrote.

It is given ids, and gives ids and their log-probabilities back. In f32 its cache is f32 (its default is f16),
without flash attention, so that its answers are those of the other engines.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import psutil

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import BanyanError, ConfigError
from trainer.serve.engines.engine import Ask, EngineSettings, Piece, TokenInfo
from trainer.serve.engines.pieces import PieceMaker, PieceQueue
from trainer.serve.engines.slots import Slots

MISSING = "serve.engine=llama_cpp needs the package xllamacpp, which isn't installed: pip install xllamacpp."
SOCKET_S = 600.0
LEAST = 16  # tokens of a context that is worth naming


def has_llama_cpp() -> bool:
    """Whether the package is installed; it isn't loaded."""
    try:
        return importlib.util.find_spec("xllamacpp") is not None
    except ImportError:
        return False


def require_cache_room(config: Mapping[str, Any], settings: EngineSettings) -> None:
    """Refuses more keys and values than there is memory for: llama.cpp sets those of every slot's context aside.

    `config` is the config.json of one of the architectures that are written as GGUF.
    """
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    size = 4 if settings.precision == "f32" else 2  # bytes
    one = 2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * width * size * settings.slots
    free = psutil.virtual_memory().available
    if one * settings.context > free:
        fits = free * 4 // 5 // one
        mend = f"give serve.context={fits:d}, or fewer serve.slots" if fits >= LEAST else "use serve.engine=torch"
        raise ConfigError(
            f"serve.context: {settings.context:,} tokens, which the model sees, in each of "
            f"serve.slots={settings.slots} take {one * settings.context / 2**30:,.1f} GiB in llama.cpp, and "
            f"{free / 2**30:,.1f} are free; {mend}."
        )


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
        self._tokenizer, self._slots = tokenizer, Slots(settings)
        try:
            self._server = xllamacpp.Server(wanted)
        except RuntimeError as error:
            raise BanyanError(
                f"serve.engine=llama_cpp: llama.cpp can't open {file} for {settings.slots} answers of "
                f"{settings.context:,} tokens ({error}); try a smaller serve.context, or serve.engine=torch."
            ) from error
        place = urlsplit(self._server.listening_address)
        self._host, self._port = str(place.hostname), int(place.port or 0)

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        """An answer as it comes; a thread of its own reads it from llama.cpp's server."""
        async with self._slots.one(ask):
            queue = PieceQueue()
            reader = _Reader(HTTPConnection(self._host, self._port, timeout=SOCKET_S), ask, self._tokenizer, queue)
            reader.start()
            try:
                async with contextlib.aclosing(queue.pieces()) as pieces:
                    async for piece in pieces:
                        yield piece
            finally:
                reader.cancel()

    def running(self) -> int:
        """Answers that are computed at the moment."""
        return self._slots.running

    def waiting(self) -> int:
        """Answers that wait for a slot."""
        return self._slots.waiting

    def close(self) -> None:
        """llama.cpp's server ends with the last reference to it."""
        self._server = None


class _Reader(threading.Thread):
    """Reads one answer; `cancel` closes the connection, at which llama.cpp frees the slot."""

    def __init__(self, connection: HTTPConnection, ask: Ask, tokenizer: Tokenizer, queue: PieceQueue) -> None:
        super().__init__(name="llama-cpp-answer", daemon=True)
        self._connection = connection
        self._ask, self._tokenizer, self._queue = ask, tokenizer, queue
        self._maker = PieceMaker(tokenizer, ask)
        self._end = "stop"
        self._cancelled = False

    def run(self) -> None:
        try:
            for token in self._tokens():
                piece = self._maker.feed(token)
                if piece is not None:
                    self._queue.put(piece)
                    if piece.end is not None:
                        return
            self._queue.put(self._maker.finish(self._end))
        except Exception as error:
            if not self._cancelled:
                self._queue.put(error)
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

    def _tokens(self) -> Iterator[TokenInfo]:
        ask = self._ask
        body = {
            "prompt": ask.ids,
            "n_predict": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "top_k": ask.top_k if ask.temperature else 1,  # else it sorts the vocabulary to take the first
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
            if event["tokens_predicted"] - count > len(event["tokens"]):
                ids = after_a_letter(self._tokenizer, event["content"])
                yield from (TokenInfo(token, None) for token in ids[: -len(event["tokens"])])
            count = event["tokens_predicted"]
            for place, token in enumerate(event["tokens"]):
                yield _described(token, infos[place] if place < len(infos) else None, ask)


def after_a_letter(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text that goes on with another.

    Of a character in several tokens llama.cpp's stream tells the text and the last token alone, so the others are those
    that the tokenizer makes of it.
    """
    before, whole = tokenizer.encode("a"), tokenizer.encode("a" + text)
    return whole[len(before) :] if whole[: len(before)] == before else tokenizer.encode(text)


def _described(token: int, told: dict[str, Any] | None, ask: Ask) -> TokenInfo:
    if told is None or not ask.logprobs:
        return TokenInfo(token)
    top = tuple((int(each["id"]), float(each["logprob"])) for each in told.get("top_logprobs", [])[: ask.top])
    return TokenInfo(token, float(told["logprob"]), top)
