"""The model as trainer itself computes it, in fp32: what engines are checked against, and what embeds and measures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import InputError
from trainer.evaluate.folder_model import load_folder
from trainer.explain.text_model import HIDDEN, TextModel, of_language_model
from trainer.model.build import LanguageModel

BATCH = 8  # texts that are embedded together


class Reference:
    """A folder's model, loaded when it is first needed. Safe to be asked from several threads, one at a time."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, context: int, *, as_hugging_face: bool) -> None:
        self._folder, self._tokenizer, self._context = folder, tokenizer, context
        self._as_hugging_face = as_hugging_face
        self._lock = threading.Lock()

    @cached_property
    def model(self) -> LanguageModel:
        """The model in evaluation mode, on a GPU if there is one."""
        return load_folder(self._folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def _text_model(self) -> TextModel:
        return of_language_model(
            self.model,
            self._tokenizer,
            longest=self._context,
            name=self._folder.name,
            as_hugging_face=self._as_hugging_face,
            described={},
        )

    @torch.inference_mode()
    def logprobs(self, ids: Sequence[int]) -> torch.Tensor:
        """Log-probabilities of what follows ids. (vocab_size,) fp32 on the CPU."""
        with self._lock:
            tokens = torch.tensor([list(ids)], device=next(self.model.parameters()).device)
            logits = self.model(tokens, cache=self.model.new_cache(len(ids)))
            return logits[0, -1].float().log_softmax(-1).cpu()

    @torch.inference_mode()
    def nats(self, ids: Sequence[int]) -> float:
        """Summed -ln p of all ids but the first."""
        ids = list(ids)[: self._context]
        with self._lock:
            tokens = torch.tensor([ids], device=next(self.model.parameters()).device)
            logprobs = self.model(tokens)[0, :-1].float().log_softmax(-1)  # with a cache it gives the last alone
            return float(-logprobs.gather(1, tokens[0, 1:, None]).sum())

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """The mean of each text's last hidden states, as `banyan explain` has them; and the tokens of all texts."""
        with self._lock:
            count = sum(len(self._tokenizer.encode(text)) for text in texts)
            found = self._text_model.embed(list(texts), HIDDEN, BATCH)
            if found.cut:
                raise InputError(f"a text is longer than the {self._context:,} tokens that the model sees")
            return found.vectors.tolist(), count
