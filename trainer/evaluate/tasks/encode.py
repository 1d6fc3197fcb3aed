"""Requests as tokens, by the rules of lm-evaluation-harness (lm_eval.api.model.TemplateLM, models.huggingface.HFLM).

Blanks at a context's end go to the continuation; context and continuation are encoded together, then cut where the
context alone would end; what is too long loses tokens on the left; an empty context is the beginning-of-text token, or
else the end-of-text token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import InputError
from trainer.evaluate.tasks.request import Completion, Likelihood, Request, Rolling

SHOWN = 60  # characters of a request in an error message


@dataclass(frozen=True, order=True)
class Row:
    """Tokens of which the last `scored` are judged, each after all before it; at most the model's context and one.

    They are int32 in `packed`: a task may have tens of millions, which every rank holds.
    """

    packed: bytes
    scored: int

    @staticmethod
    def of(tokens: Sequence[int], scored: int) -> Row:
        """The row of these tokens."""
        return Row(np.array(tokens, np.int32).tobytes(), scored)

    @property
    def tokens(self) -> np.ndarray:
        """(tokens,) int32."""
        return np.frombuffer(self.packed, np.int32)

    @property
    def length(self) -> int:
        """Number of tokens that the model is given: all but the last."""
        return len(self.packed) // 4 - 1


@dataclass(frozen=True, order=True)
class PromptRow:
    """Tokens to go on from, and how."""

    tokens: tuple[int, ...]
    until: tuple[str, ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    number: int


Asked = tuple[Row, ...] | PromptRow


@dataclass
class RequestEncoder:
    """Encodes for a model that sees `context_length` tokens."""

    tokenizer: Tokenizer
    context_length: int
    _contexts: dict[str, list[int]] = field(default_factory=dict)

    def encode(self, request: Request) -> Asked:
        """The rows whose likelihoods answer a request, or the prompt that does. InputError where it can't be asked."""
        if isinstance(request, Likelihood):
            return self._pair(request)
        if isinstance(request, Rolling):
            return self._windows(request)
        return self._prompt(request)

    def _pair(self, request: Likelihood) -> tuple[Row, ...]:
        context, continuation = request.context, request.continuation
        if context == "":
            after = self.tokenizer.encode_as_hugging_face(continuation, around=False)
            before = [self.tokenizer.prefix_id]
            if after[:1] == before:
                before, after = after[:1], after[1:]
        else:
            bare = context.rstrip()
            whole = self._text(context + continuation)
            before = self._context(bare) if bare else self._text(bare)
            after = whole[len(before) :]
            if not before:  # blanks alone
                before, after = after[:1], after[1:]
        if not after:
            raise InputError(f"the continuation {continuation[:SHOWN]!r} adds no token to what is before it")
        if len(after) > self.context_length:
            raise InputError(
                f"the continuation {continuation[:SHOWN]!r} has {len(after):,} tokens, but the model sees "
                f"{self.context_length:,} at most"
            )
        return (Row.of((before + after)[-(self.context_length + 1) :], len(after)),)

    def _windows(self, request: Rolling) -> tuple[Row, ...]:
        """Each token is predicted once, from as many before it as the model sees (at least one)."""
        tokens, length = self._text(request.text), self.context_length
        first = tokens[:length]
        rows = [Row.of([self.tokenizer.prefix_id, *first], len(first))] if first else []
        for start in range(length, len(tokens), length):
            end = min(start + length, len(tokens))
            rows.append(Row.of(tokens[max(0, end - length - 1) : end], end - start))
        return tuple(rows)

    def _prompt(self, request: Completion) -> PromptRow:
        room = self.context_length - request.max_tokens
        if room <= 0:
            raise InputError(
                f"{request.max_tokens:,} tokens are to be generated, but the model sees {self.context_length:,}, with "
                "the prompt: lower the task's max_tokens (lm-eval: max_gen_toks)"
            )
        tokens = self._text(request.prompt)[-room:] or [self.tokenizer.prefix_id]
        end = self.tokenizer.decode([self.tokenizer.end_of_text_id])
        until = tuple(text for text in dict.fromkeys((*request.until, end)) if text)
        settings = (request.max_tokens, request.temperature, request.top_p, request.top_k)
        return PromptRow(tuple(tokens), until, *settings, request.number if request.temperature > 0 else 0)

    def _context(self, text: str) -> list[int]:
        """Choices share their context: it is encoded once."""
        if text not in self._contexts:
            if len(self._contexts) > 64:
                self._contexts.clear()
            self._contexts[text] = self._text(text)
        return self._contexts[text]

    def _text(self, text: str) -> list[int]:
        begins = text.startswith(self.tokenizer.decode([self.tokenizer.prefix_id]))
        return self.tokenizer.encode_as_hugging_face(text, around=not begins)
