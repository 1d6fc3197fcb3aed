"""A model as a source of vectors for words and texts: of a run, of a Hugging Face folder, decoder or encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.data.tokens.tokenizer import CONFIG as TOKENIZER_CONFIG
from trainer.data.tokens.tokenizer import FILE as TOKENIZER
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer
from trainer.data.tokens.tokenizer_file import read_tokenizer
from trainer.errors import ConfigError, InputError, require
from trainer.model.decoder import Transformer
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.model.hugging_face.config_json import read_json_object
from trainer.model.hugging_face.encoder import TextEncoder

INPUT, OUTPUT, HIDDEN = "input", "output", "hidden"
USUAL_LENGTH = 512  # tokens, where an encoder's folder doesn't say


@dataclass(frozen=True)
class TextVectors:
    """A vector for each text, (texts, hidden_size) fp32 on the CPU, and how many texts were longer than can be seen."""

    vectors: Tensor
    cut: int


@dataclass(frozen=True)
class TextModel:
    """What gives vectors. `input` and `output` are (vocab_size, hidden_size): of the embedding, and of the head.

    `hidden` takes tokens and their mask, (texts, time) both, to the last hidden states, (texts, time, hidden_size).
    `as_hugging_face`: texts get what the tokenizer puts around them, as [CLS] and [SEP]. `described` is for the record.
    """

    name: str
    tokenizer: Tokenizer
    longest: int
    input: Tensor
    output: Tensor | None
    hidden: Callable[[Tensor, Tensor], Tensor]
    as_hugging_face: bool
    described: dict[str, Any]

    def table(self, embedding: str) -> Tensor:
        """The vectors of single tokens. ConfigError where the model has none of that kind."""
        require(embedding != HIDDEN, "embedding=hidden: of single tokens there are input and output alone.")
        found = self.input if embedding == INPUT else self.output
        if found is None:
            raise ConfigError(f"embedding={embedding}: {self.name} has no head; use embedding=input.")
        return found

    def ids_of(self, key: str, text: str) -> list[int]:
        """The tokens of a text, and nothing around them. InputError where the tokenizer knows none of it."""
        require(bool(text), f"{key} is empty: give a text, as {key}=tree.")
        ids = self.tokenizer.encode(text)
        if all(number == self._unknown_id for number in ids):
            became = "nothing" if not ids else f"{self.tokenizer.engine.id_to_token(self._unknown_id)}"
            raise InputError(f"{key}={text}: the tokenizer of {self.name} can't encode it: it makes {became} of it.")
        return ids

    def word_ids(self, key: str, text: str) -> list[int]:
        """The tokens of a word. InputError where the tokenizer doesn't know all of it."""
        ids = self.ids_of(key, text)
        if self._unknown_id in ids:
            raise InputError(f"{key}={text}: the tokenizer of {self.name} knows only a part of it; give another word.")
        return ids

    @cached_property
    def _unknown_id(self) -> int | None:
        """The token that stands for what the tokenizer doesn't know; None where it knows all, byte by byte."""
        model: Any = self.tokenizer.engine.model
        token = getattr(model, "unk_token", None)
        found = self.tokenizer.engine.token_to_id(token) if token else None
        return None if found is None or found == self.tokenizer.end_of_text_id else int(found)

    @cached_property
    def _cutting_engine(self) -> Any:
        """The tokenizer, which leaves off what is beyond `longest` tokens, with those around a text in their place."""
        from tokenizers import Tokenizer as Engine

        engine = Engine.from_str(self.tokenizer.engine.to_str())
        engine.encode_special_tokens = True
        engine.no_padding()
        engine.enable_truncation(self.longest)
        return engine

    @torch.no_grad()
    def embed(self, texts: Sequence[str], embedding: str, batch_size: int) -> TextVectors:
        """The mean of each text's token vectors; those of like lengths go together, and padding isn't counted."""
        encodings = [
            self._cutting_engine.encode(text, add_special_tokens=self.as_hugging_face and embedding == HIDDEN)
            for text in texts
        ]
        ids = [[int(number) for number in encoding.ids] for encoding in encodings]
        for text, each in zip(texts, ids, strict=True):
            if not each:
                raise InputError(f"{text[:40]!r}: the tokenizer of {self.name} makes nothing of it; give another text.")
        vectors = torch.empty(len(ids), self.input.shape[1])
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            vectors[chosen] = self._means([ids[number] for number in chosen], embedding)
        if not vectors.isfinite().all():
            raise InputError(f"{self.name}: its hidden states aren't finite: its weights are broken or have diverged.")
        return TextVectors(vectors, sum(bool(encoding.overflowing) for encoding in encodings))

    def _means(self, rows: list[list[int]], embedding: str) -> Tensor:
        time = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (time - len(row)) for row in rows], device=self.input.device)
        mask = torch.tensor([[1] * len(row) + [0] * (time - len(row)) for row in rows], device=self.input.device)
        states = self.hidden(tokens, mask) if embedding == HIDDEN else self.table(embedding)[tokens]
        weights = mask[:, :, None].float()
        return ((states.float() * weights).sum(dim=1) / weights.sum(dim=1)).cpu()


def of_language_model(
    model: Any, tokenizer: Tokenizer, *, longest: int, name: str, as_hugging_face: bool, described: dict[str, Any]
) -> TextModel:
    """A causal model's: hidden states are those that its head gets, after the final norm."""
    if isinstance(model, Transformer):
        output: Tensor | None = model.lm_head.weight
        embedding = model.model.embed_tokens.weight

        def hidden(tokens: Tensor, mask: Tensor) -> Tensor:
            return model.model(tokens, None, None)[0]  # padding is behind, where causal attention doesn't look

    elif isinstance(model, CausalLM):
        head = model.inner.get_output_embeddings()
        output, embedding = (None if head is None else head.weight), model.inner.get_input_embeddings().weight

        def hidden(tokens: Tensor, mask: Tensor) -> Tensor:
            found: Tensor = model.inner.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
            return found

    else:
        raise InputError(f"{name}: what is inside such a model ({type(model).__name__}) isn't known to explain.")
    return TextModel(name, tokenizer, longest, embedding.detach(), output, hidden, as_hugging_face, described)


# An encoder's tokenizer.json has no end-of-text token under a usual name; what closes a text takes its place
CLOSING = ("[SEP]", "</s>", "<|endoftext|>", "<eos>", "</S>")


def of_encoder(folder: Path, device: torch.device) -> TextModel:
    """A Hugging Face folder's without a head, or with another than a causal one's, such as a BERT."""
    name = f"path={folder}"
    tokenizer = _encoder_tokenizer(folder)
    model = TextEncoder(folder, device)
    stated = read_json_object(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    bounds = [model.most_positions, stated.get("model_max_length")]
    longest = min((bound for bound in bounds if type(bound) is int and bound > 0), default=USUAL_LENGTH)
    if tokenizer.vocab_size > len(model.embedding):
        raise InputError(f"{name}: {tokenizer.vocab_size} tokens, but the embedding has {len(model.embedding)} rows.")
    return TextModel(name, tokenizer, longest, model.embedding, None, model, True, {"folder": str(folder.absolute())})


def _encoder_tokenizer(folder: Path) -> Tokenizer:
    _, vocabulary = read_tokenizer(folder / TOKENIZER)
    closing = next((token for token in CLOSING if token in vocabulary), None)
    return load_tokenizer(folder, closing)
