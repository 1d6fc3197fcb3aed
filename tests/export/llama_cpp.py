"""llama.cpp itself, by the package xllamacpp where it is installed: what it makes of a GGUF file."""

import json
import urllib.request
from pathlib import Path
from typing import Any


class LlamaCpp:
    """A server in this process, exact where it can be: fp32 cache, no flash attention."""

    def __init__(self, file: Path, context: int = 256) -> None:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads, settings.port = context, 1, 1, 0
        settings.verbosity = -1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(settings)

    def _ask(self, path: str, **content: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._server.listening_address}{path}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def ids(self, text: str, *, rendered: bool = False) -> list[int]:
        """The ids of a text; of a rendered chat, whose special tokens are special."""
        return self._ask("/tokenize", content=text, add_special=False, parse_special=rendered)["tokens"]

    def likeliest(self, prompt: list[int], count: int) -> dict[int, float]:
        """The log-probabilities of the `count` likeliest tokens after a prompt, the first of them first.

        {} where the first is the beginning of a character in several tokens, of which llama.cpp tells none.
        """
        answer = self._ask("/completion", prompt=prompt, n_predict=1, temperature=0, n_probs=count)
        steps = answer.get("completion_probabilities") or [{"top_logprobs": []}]
        return {found["id"]: found["logprob"] for found in steps[0]["top_logprobs"]}
