"""model=lstm: a small LSTM language model, a baseline from before attention. The decoder's signature, plain PyTorch.

Embedding, layers of torch's LSTM (Hochreiter and Schmidhuber 1997), head. A row is read from left to right from a state
of zeros; where documents don't see each other, each is read from zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from trainer.config import Model
from trainer.model.loss import FromLogits, Measure, logit_losses, row_losses, token_values
from trainer.model.sizes import chunk_tokens

State = tuple[Tensor, Tensor]  # of a layer: hidden and cell, each (1, rows, hidden_size)


class StateCache:
    """What generation remembers of the tokens so far: the state of each layer. It doesn't grow."""

    def __init__(self, layers: int) -> None:
        self._states: list[State | None] = [None] * layers

    def get(self, layer: int) -> State | None:
        """The state after the tokens so far; None before the first."""
        return self._states[layer]

    def put(self, layer: int, state: State) -> None:
        """Takes the place of what was before."""
        self._states[layer] = state

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows of the batch but these."""
        self._states = [state and (state[0][:, rows], state[1][:, rows]) for state in self._states]


class JoinedStates:
    """The states of several rows as one batch's, whatever the rows' lengths."""

    def __init__(self, rows: list[StateCache]) -> None:
        self._rows = rows

    def get(self, layer: int) -> State | None:
        """(1, rows, hidden_size) each; zeros for rows that had no token yet, None where none had one."""
        states = [row.get(layer) for row in self._rows]
        known = next((state for state in states if state is not None), None)
        if known is None:
            return None
        zeros = (torch.zeros_like(known[0]), torch.zeros_like(known[1]))
        hidden, cell = zip(*(zeros if state is None else state for state in states), strict=True)
        return torch.cat(hidden, dim=1), torch.cat(cell, dim=1)

    def put(self, layer: int, state: State) -> None:
        """Gives each row its own."""
        for row, hidden, cell in zip(self._rows, state[0].split(1, dim=1), state[1].split(1, dim=1), strict=True):
            row.put(layer, (hidden, cell))


class _Together(torch.autograd.Function):
    """The same weights, whose gradients come all at once.

    Torch's LSTM gives them in an order that depends on the lengths of the sequences, and so on the rank's data; ZeRO-2
    reduces them as they come, and would add one weight's gradient to another's.
    """

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients


class LSTMLayer(nn.Module):
    """A layer of torch's LSTM with one bias, where nn.LSTM has two that are only ever added to each other."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * size, size))
        self.weight_hh = nn.Parameter(torch.empty(4 * size, size))
        self.bias = nn.Parameter(torch.empty(4 * size))

    @property
    def _weights(self) -> list[Tensor]:
        return [*_Together.apply(self.weight_ih, self.weight_hh, self.bias), torch.zeros_like(self.bias)]

    def forward(
        self, hidden: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """(rows, time, size) → the same, and the state after it; `state` is the one before, by default zeros.

        With `lengths`, rows are padded and sorted by them, longest first: what comes after a row's end means nothing.
        """
        if state is None:
            zeros = hidden.new_zeros(1, hidden.shape[0], hidden.shape[2])
            state = (zeros, zeros)
        how = (True, 1, 0.0, self.training, False)  # biases, one layer, no dropout, one direction
        if lengths is None:
            mixed, last, cell = torch.lstm(hidden, state, self._weights, *how, True)
            return mixed, (last, cell)
        packed = pack_padded_sequence(hidden, lengths, batch_first=True)
        mixed, last, cell = torch.lstm(packed.data, packed.batch_sizes, state, self._weights, *how)
        padded, _ = pad_packed_sequence(PackedSequence(mixed, packed.batch_sizes), batch_first=True)
        return padded, (last, cell)


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
        self.layers = nn.ModuleList(LSTMLayer(size) for _ in range(config.num_hidden_layers))
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        self.measure: Measure = logit_losses
        self.least_tokens = 0  # of another rank's batch, where all must call the head as often
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

    def join_caches(self, rows: list[StateCache]) -> JoinedStates:
        """The states of several rows as one, for a step with a token of each."""
        return JoinedStates(rows)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: StateCache | JoinedStates | None = None,
        from_logits: FromLogits | None = None,
    ) -> Tensor:
        """Losses of rows where there are targets, else logits or what `from_logits` makes, as Transformer has it."""
        if cache is not None and document_ids is not None:
            raise ValueError("A cache holds one document: give no document_ids with it.")
        hidden = self._drop(self.embed_tokens(tokens))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, LSTMLayer)
            if document_ids is not None:
                hidden = self._drop(_by_document(layer, hidden, document_ids))
                continue
            hidden, state = layer(hidden, cache.get(number) if cache is not None else None)
            hidden = self._drop(hidden)
            if cache is not None:
                cache.put(number, state)
        chunk = chunk_tokens(self.config.loss_chunk, self.config.vocab_size or 0, cuda=hidden.is_cuda)
        if from_logits is not None:
            return token_values(hidden, self.lm_head, from_logits, chunk=chunk)
        if targets is not None:
            z_loss = self.config.z_loss if self.training else 0.0
            return row_losses(
                hidden,
                targets,
                self.lm_head,
                chunk=chunk,
                z_loss=z_loss,
                measure=self.measure,
                least_tokens=self.least_tokens,
            )
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


def _by_document(layer: LSTMLayer, hidden: Tensor, document_ids: Tensor) -> Tensor:
    """A layer over each document of each row, from a state of zeros. (rows, time, size) → the same."""
    rows, time, size = hidden.shape
    starts = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True).flatten()
    edges = [*starts.nonzero().flatten().tolist(), rows * time]
    lengths = torch.tensor([stop - start for start, stop in pairwise(edges)])
    order = lengths.argsort(descending=True, stable=True)
    documents = hidden.reshape(rows * time, size).split(lengths.tolist())
    mixed, _ = layer(
        pad_sequence([documents[number] for number in order.tolist()], batch_first=True), None, lengths[order]
    )
    pieces = [mixed[place, : lengths[number]] for place, number in enumerate(order.tolist())]
    return torch.cat([pieces[place] for place in order.argsort().tolist()]).view(rows, time, size)
