"""vLLM: its own server in a process of its own, on a port of the loopback; asked with ids, answers with ids."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import BanyanError, ConfigError
from trainer.machine.host import free_port
from trainer.serve.engines.engine import Ask, EngineSettings, Piece, TokenInfo
from trainer.serve.engines.pieces import PieceMaker
from trainer.serve.engines.slots import Slots

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
START_S = 900.0
MISSING = (
    "serve.engine=vllm needs the package vllm, which isn't installed: pip install it, or give serve.vllm_python=PYTHON "
    "of an environment that has it (tests/peers/vllm.sh makes one for CPUs)."
)

# Runs a command until that ends, or until its own input does: then whoever started it is gone, even by SIGKILL, and the
# command's processes, which are of its group, go as well.
KEEPER = """
import os, signal, subprocess, sys, threading
command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def watch():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.exit(command.wait())
"""


def find_python(given: str | None) -> str | None:
    """A Python that has vLLM: the one that is given, or this one; None if neither does."""
    python = given or sys.executable
    asked = "import importlib.util as u; raise SystemExit(0 if u.find_spec('vllm') else 1)"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, timeout=60, check=False)
    except OSError:
        return None
    return python if done.returncode == 0 else None


class VllmEngine:
    """See the head of this file."""

    name = "vllm"

    def __init__(
        self, settings: EngineSettings, tokenizer: Tokenizer, python: str, arguments: list[str], log: Path
    ) -> None:
        self.precision = settings.precision
        self._tokenizer, self._slots = tokenizer, Slots(settings)
        self._port, self._key = free_port(), secrets.token_hex(16)
        command = [
            *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(settings.folder)),
            *("--served-model-name", "model", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--dtype", DTYPES[settings.precision], "--max-model-len", str(settings.context)),
            *("--max-num-seqs", str(settings.slots), "--max-logprobs", "20", "--enforce-eager", *arguments),
        ]
        environment = os.environ | {"VLLM_API_KEY": self._key, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", KEEPER, *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait(log)

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2).close()
                return
            time.sleep(0.5)
        self.close()
        raise BanyanError(f"serve.engine=vllm: vLLM's server didn't start; {log} says why.")

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece]:
        """An answer as it comes, over vLLM's own stream."""
        import httpx

        body: dict[str, Any] = {
            "model": "model",
            "prompt": ask.ids,
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "top_k": ask.top_k,
            "stop_token_ids": sorted(ask.ends),
            "logprobs": ask.top if ask.logprobs else None,
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            "skip_special_tokens": False,
            "stream": True,
        }
        if ask.seed is not None:
            body["seed"] = ask.seed % 2**63
        maker = PieceMaker(self._tokenizer, ask)
        headers = {"Authorization": f"Bearer {self._key}"}
        address = f"http://127.0.0.1:{self._port}/v1/completions"
        async with (
            self._slots.one(ask),
            httpx.AsyncClient(timeout=httpx.Timeout(600.0), trust_env=False) as client,
            client.stream("POST", address, json=body, headers=headers) as response,
        ):
            if response.status_code != 200:
                said = (await response.aread())[:500].decode(errors="replace")
                raise RuntimeError(f"vLLM answered {response.status_code}: {said}")
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                for piece in _pieces(json.loads(line[6:]), maker, ask):
                    yield piece
                    if piece.end is not None:
                        return

    def running(self) -> int:
        """Answers that vLLM has."""
        return self._slots.running

    def waiting(self) -> int:
        """Answers that wait."""
        return self._slots.waiting

    def close(self) -> None:
        """Ends vLLM's processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def _pieces(event: dict[str, Any], maker: PieceMaker, ask: Ask) -> Iterator[Piece]:
    """What one of vLLM's events lets be shown."""
    if "error" in event:
        raise RuntimeError(f"vLLM: {event['error']}")
    for choice in event.get("choices", []):
        told = choice.get("logprobs") or {}
        for place, token in enumerate(choice.get("token_ids") or []):
            if piece := maker.feed(_info(token, told, place, ask)):
                yield piece
        if end := choice.get("finish_reason"):
            yield maker.finish("length" if end == "length" else "stop")


def _info(token: int, told: dict[str, Any], place: int, ask: Ask) -> TokenInfo:
    values = told.get("token_logprobs") or []
    if not ask.logprobs or place >= len(values):
        return TokenInfo(token)
    top = (told.get("top_logprobs") or [{}] * len(values))[place] or {}
    ranked = sorted(
        ((int(key.removeprefix("token_id:")), float(value)) for key, value in top.items()), key=lambda p: -p[1]
    )
    return TokenInfo(token, float(values[place]), tuple(ranked[: ask.top]))


def require_python(given: str | None) -> str:
    """ConfigError where no Python has vLLM."""
    python = find_python(given)
    if python is None:
        raise ConfigError(MISSING)
    return python
