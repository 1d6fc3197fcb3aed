"""A Hugging Face model without a head, such as a BERT or an embedding model: tokens to last hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import Model
from trainer.errors import InputError
from trainer.model.hugging_face.causal_lm import causal_classes, load_headless, read_any_config
from trainer.model.hugging_face.config_json import read_json_object
from trainer.model.lstm_folder import is_lstm

POSITIONS_AFTER_PADDING = ("camembert", "data2vec-text", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl", "xmod")


def is_encoder(folder: Path) -> bool:
    """Whether a folder's config.json names a class that isn't a causal language model. An LSTM of ours is one."""
    config = read_json_object(folder / "config.json")
    named = config.get("architectures")
    is_other = isinstance(named, list) and bool(named) and named[0] not in causal_classes()
    return is_other and not is_lstm(config)


class TextEncoder(nn.Module):
    """The model of a folder, fp32, in evaluation mode; of an encoder–decoder, its encoder."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__()
        settings = Model(path=str(folder))
        self.config = read_any_config(settings)
        whole = load_headless(settings, self.config)
        self.inner: Any = (whole.get_encoder() if self.config.is_encoder_decoder else whole).to(device).eval()

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(texts, time), and 1 where there is a token, 0 where padding → (texts, time, hidden_size)."""
        states: Tensor = self.inner(input_ids=tokens, attention_mask=mask).last_hidden_state
        return states

    @property
    def embedding(self) -> Tensor:
        """Vectors of single tokens: (vocab_size, hidden_size)."""
        weight: Tensor = self.inner.get_input_embeddings().weight
        return weight.detach()

    @property
    def most_positions(self) -> int | None:
        """The tokens that it sees at most; None where its config.json doesn't say."""
        count = getattr(self.config, "max_position_embeddings", None)
        if not isinstance(count, int) or count <= 0:
            return None
        pad = self.config.pad_token_id
        after = (pad or 0) + 1 if self.config.model_type in POSITIONS_AFTER_PADDING else 0
        if count <= after:
            raise InputError(f"max_position_embeddings={count}: no room for a token; mend config.json.")
        return count - after
