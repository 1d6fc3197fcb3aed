"""Answers in OpenAI's shapes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.explain.token_text import TokenTexts
from trainer.serve.engines.engine import TokenInfo


@dataclass(frozen=True)
class AnswerShape:
    """Of one request: a chat, or a completion. `model` is what the client calls it."""

    is_chat: bool
    model: str
    wants_logprobs: bool
    tokenizer: Tokenizer
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: uuid.uuid4().hex)

    def _frame(self, choices: list[Any], *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.is_chat else "text_completion"
        name = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{self.number}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    def whole(self, choices: list[Any], usage: dict[str, Any]) -> dict[str, Any]:
        """All of an answer."""
        return {**self._frame(choices, chunk=False), "usage": usage}

    def choice(self, index: int, text: str, tokens: Sequence[TokenInfo], end: str) -> dict[str, Any]:
        """One of the choices of `whole`."""
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        )
        return {"index": index, **content, "logprobs": self._logprobs(tokens, 0), "finish_reason": end}

    def first(self, index: int) -> dict[str, Any]:
        """The chunk that begins a choice of a chat."""
        delta = {"role": "assistant", "content": ""}
        return self._frame([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}], chunk=True)

    def chunk(self, index: int, text: str, tokens: Sequence[TokenInfo], end: str | None, offset: int) -> dict[str, Any]:
        """A stretch of a choice; `offset` is how many characters came before it."""
        content: dict[str, Any] = (
            {"delta": {"content": text} if text or end is None else {}} if self.is_chat else {"text": text}
        )
        logprobs = self._logprobs(tokens, offset) if tokens else None
        return self._frame([{"index": index, **content, "logprobs": logprobs, "finish_reason": end}], chunk=True)

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk with the counts."""
        return {**self._frame([], chunk=True), "usage": usage}

    def _logprobs(self, tokens: Sequence[TokenInfo], offset: int) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        texts = TokenTexts(self.tokenizer)
        if self.is_chat:
            return {
                "content": [
                    _described(texts, token.id, token.logprob)
                    | {"top_logprobs": [_described(texts, other, logprob) for other, logprob in token.top]}
                    for token in tokens
                ]
            }
        names = [texts.text(token.id) for token in tokens]
        offsets = [offset + sum(map(len, names[:place])) for place in range(len(names))]
        return {
            "tokens": names,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{texts.text(other): logprob for other, logprob in token.top} for token in tokens],
            "text_offset": offsets,
        }


def _described(texts: TokenTexts, number: int, logprob: float | None) -> dict[str, Any]:
    text = texts.text(number)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """OpenAI's counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
