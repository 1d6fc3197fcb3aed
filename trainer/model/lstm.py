"""model=lstm: a small LSTM language model, a baseline from before attention. The decoder's signature, plain PyTorch.

Embedding, layers of torch's LSTM (Hochreiter and Schmidhuber 1997), head. A row is read from left to right from a state
of zeros; where documents don't see each other, each is read from zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from trainer.config import Model
from trainer.model.loss import FromLogits, Measure, logit_losses, row_losses, token_values

State = tuple[Tensor, Tensor]  # of a layer: hidden and cell, each (1, rows, hidden_size)


class StateCache:
    """What generation remembers of the tokens so far: the state of each layer. It doesn't grow."""

    def __init__(self, layers: int) -> None:
        self.states: list[State | None] = [None] * layers

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows of the batch but these."""
        self.states = [state and (state[0][:, rows], state[1][:, rows]) for state in self.states]


class LSTM(nn.Module):
    """The language model: tokens and targets → losses of rows, as Transformer has it."""

    tally = None  # there are no experts

    def __init__(self, config: Model) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("model.vocab_size is not set: take the tokenizer's.")
        self.config = config
        size = config.hidden_size
        # nn.Embedding itself would draw weights, which on the meta device imports torch's compiler
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, size), freeze=False)
        self.layers = nn.ModuleList(nn.LSTM(size, size, batch_first=True) for _ in range(config.num_hidden_layers))
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        self.measure: Measure = logit_losses
        self._tie()

    @property
    def has_dropout(self) -> bool:
        """Whether training draws random numbers."""
        return self.config.dropout > 0

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, first to last."""
        return self.layers

    def set_activation_checkpointing(self, mode: str) -> None:
        """Nothing is computed again: trainer/rules/lstm.py refuses other modes."""

    def new_cache(self, capacity: int) -> StateCache:
        """What generation remembers; of whatever length."""
        return StateCache(self.config.num_hidden_layers)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: StateCache | None = None,
        from_logits: FromLogits | None = None,
    ) -> Tensor:
        """Losses of rows where there are targets, else logits or what `from_logits` makes, as Transformer has it."""
        if cache is not None and document_ids is not None:
            raise ValueError("A cache holds one document: give no document_ids with it.")
        hidden = self._drop(self.embed_tokens(tokens))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.LSTM)
            if document_ids is not None:
                hidden = self._drop(_by_document(layer, hidden, document_ids))
                continue
            hidden, state = layer(hidden, cache.states[number] if cache is not None else None)
            hidden = self._drop(hidden)
            if cache is not None:
                cache.states[number] = state
        if from_logits is not None:
            return token_values(hidden, self.lm_head, from_logits, chunk=self.config.loss_chunk)
        if targets is not None:
            z_loss = self.config.z_loss if self.training else 0.0
            chunk = self.config.loss_chunk
            return row_losses(hidden, targets, self.lm_head, chunk=chunk, z_loss=z_loss, measure=self.measure)
        if cache is not None:
            hidden = hidden[:, -1:]
        return self.lm_head(hidden).float()

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.config.dropout, self.training)

    def _tie(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def _apply(self, fn: Callable, recurse: bool = True) -> LSTM:
        """What .to(), .to_empty() and the like call: they may replace parameters, each module's by itself."""
        super()._apply(fn, recurse)
        self._tie()
        return self


def _by_document(layer: nn.LSTM, hidden: Tensor, document_ids: Tensor) -> Tensor:
    """A layer over each document of each row, from a state of zeros. (rows, time, size) → the same."""
    rows, time, size = hidden.shape
    starts = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True).flatten()
    edges = [*starts.nonzero().flatten().tolist(), rows * time]
    lengths = [stop - start for start, stop in pairwise(edges)]
    packed = pack_sequence(list(hidden.reshape(rows * time, size).split(lengths)), enforce_sorted=False)
    mixed, _ = layer(packed)
    return torch.cat(unpack_sequence(mixed)).view(rows, time, size)
