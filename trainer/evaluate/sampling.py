"""Continues a prompt with a trained model: tokens are sampled one by one, text comes in whole characters."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples.render_labelled import LabelRenderer
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.model.build import LanguageModel

UNBOUNDED = 2**30  # tokens: an encoder–decoder has a source, and never goes on from half of it
UNFINISHED = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the fields are those of trainer.config.Generate."""

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def continue_text(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, sampling: Sampling, *, context_length: int
) -> Iterator[str]:
    """The continuation of `prompt` (without it), in pieces that end with whole characters.

    An empty prompt begins where a document does, after an end-of-text token.
    """
    end_of_text = tokenizer.end_of_text_id
    tokens = tokenizer.encode(prompt) or [end_of_text]
    new = generate_tokens(model, tokens, sampling, context_length=context_length, end_of_text=end_of_text)
    return decode_stream(tokenizer, tokens, new)


def write_target(model: LanguageModel, tokenizer: Tokenizer, source: str, sampling: Sampling) -> Iterator[str]:
    """What an encoder–decoder writes for a source, in pieces that end with whole characters."""
    end = tokenizer.end_of_text_id
    ids = LabelRenderer(tokenizer).source_ids(source)
    return decode_stream(
        tokenizer, [], generate_tokens(model, ids, sampling, context_length=UNBOUNDED, end_of_text=end)
    )


def generate_tokens(
    model: LanguageModel,
    tokens: list[int],
    sampling: Sampling,
    *,
    context_length: int,
    end_of_text: int,
    also_at: Collection[int] = (),
    agreed: Callable[[int], int] = int,
) -> Iterator[int]:
    """Samples the tokens that follow `tokens`, until end-of-text (not given out) or `sampling.max_tokens`.

    It ends `also_at` these tokens, such as one that ends an answer.

    The model never sees more than `context_length` tokens: when they are full it goes on from the later half of them.
    Under ZeRO-3 every rank must take part, and take every token; `agreed` makes of a rank's token that of all.
    """
    generator = torch.Generator("cpu").manual_seed(sampling.seed)
    seen = tokens[-context_length:]
    fresh, cache = seen, model.new_cache(context_length)
    for _ in range(sampling.max_tokens):
        if len(seen) > context_length:
            seen = seen[-max(1, context_length // 2) :]
            fresh, cache = seen, model.new_cache(context_length)
        logits = next_logits(model, fresh, cache)
        token = agreed(sample(logits, sampling.temperature, sampling.top_k, sampling.top_p, generator))
        if token == end_of_text or token in also_at:
            return
        yield token
        fresh = [token]
        seen = seen + fresh


@torch.no_grad()
def next_logits(model: LanguageModel, tokens: list[int], cache: Any) -> Tensor:
    """Logits of what follows the cached tokens and these, which join the cache. (vocab_size,) fp32 on the CPU."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with eagerly():
        logits = model(torch.tensor([tokens], device=device), cache=cache)
    model.train(training)
    return logits[0, -1].float().cpu()


def sample(logits: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator) -> int:
    """Draws a token from softmax(logits / temperature), cut to the `top_k` likeliest, then to the nucleus `top_p`.

    The nucleus (Holtzman et al. 2020) is the fewest likeliest tokens whose probability reaches top_p: one at least.
    temperature 0 takes the likeliest, top_k 0 and top_p 1 cut nothing. logits: (vocab_size,).
    """
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits.double() - logits.max()) / temperature  # at most 0: a tiny temperature overflows nothing
    probabilities, tokens = scaled.softmax(dim=-1).sort(descending=True, stable=True)
    if top_k > 0:
        probabilities = probabilities[:top_k] / probabilities[:top_k].sum()
    if top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities  # held by the likelier ones
        before[0] = -1.0
        probabilities = probabilities.where(before < top_p, 0.0)
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])


def decode_stream(tokenizer: Tokenizer, before: list[int], tokens: Iterable[int]) -> Iterator[str]:
    """The text of `tokens` as they come, after those `before`; a character in several tokens waits for the last."""
    stream = TextStream(tokenizer, before)
    for token in tokens:
        if text := stream.feed(token):
            yield text
    if rest := stream.finish():
        yield rest


class TextStream:
    """Text of tokens as they come after those `before`, in whole characters.

    Each piece is decoded after the one before it, because some tokenizers drop the space a text begins with.
    """

    def __init__(self, tokenizer: Tokenizer, before: list[int]) -> None:
        self._tokenizer = tokenizer
        self._begin(before)

    def feed(self, token: int) -> str:
        """What one more token lets be shown; "" where a character waits for its last token."""
        self._pending.append(token)
        text = self.finish()
        if not text or text.endswith(UNFINISHED):
            return ""
        self._begin(self._pending)
        return text

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        return self._tokenizer.decode(self._context + self._pending)[self._known :] if self._pending else ""

    def _begin(self, context: list[int]) -> None:
        self._context, self._pending = context, list[int]()
        self._known = len(self._tokenizer.decode(context))  # characters


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Runs compiled blocks as they are written, and attention without cuDNN.

    A sample's ever-changing shapes would compile again and again, and cuDNN plans for each length of the keys, which
    takes it longer than the attention: FlashAttention is right there.
    """
    is_compiled = "torch._dynamo" in sys.modules  # which takes seconds to import: nothing compiles without it
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext():
            yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
