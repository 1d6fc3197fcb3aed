"""Rows of pairs of answers, as a dataset gives them, and the same pairs by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trainer.config import Model
from trainer.data.tokens.token_rows import TokenRows
from trainer.model.decoder import Transformer

VOCABULARY, END = 61, 60


def tiny_model(*, chunk: int = 2048, seed: int = 0) -> Transformer:
    """A decoder with random weights."""
    torch.manual_seed(seed)
    model = Transformer(
        Model(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            loss_chunk=chunk,
        )
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and of both answers, which end in the end-of-text token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def draw_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Pairs of random tokens."""
    draw = np.random.default_rng(seed)

    def some(least: int, most: int) -> list[int]:
        return draw.integers(0, END, draw.integers(least, most)).tolist()

    return [Pair(some(1, 6), [*some(1, 7), END], [*some(1, 9), END]) for _ in range(count)]


def rows_of(rows: list[list[Pair]], length: int, reference: dict[int, tuple[float, float]] | None = None) -> TokenRows:
    """Packed rows of pairs, each a document, by hand. `reference` is by the number of a pair over all rows."""
    shape = len(rows), length
    inputs, targets = np.full(shape, END, np.uint16), np.full(shape, END, np.uint16)
    counted, ids = np.zeros(shape, bool), np.zeros(shape, np.int64)
    most = max(map(len, rows))
    sides, logps = np.zeros((len(rows), most, 1), np.uint32), np.zeros((len(rows), most, 2), np.float32)
    number = 0
    for row, pairs in enumerate(rows):
        at = 0
        for place, pair in enumerate(pairs):
            first = [*pair.prompt, *pair.chosen]
            whole = [*first, *pair.prompt, *pair.rejected]
            wanted = [False] * len(pair.prompt) + [True] * len(pair.chosen)
            wanted += [False] * len(pair.prompt) + [True] * len(pair.rejected)
            stop = at + len(whole) - 1
            inputs[row, at:stop], targets[row, at:stop] = whole[:-1], whole[1:]
            counted[row, at:stop], ids[row, at:stop] = wanted[1:], place
            sides[row, place] = len(first)
            logps[row, place] = (reference or {}).get(number, (0.0, 0.0))
            at, number = stop, number + 1
        ids[row, at:] = len(pairs)
    return TokenRows(inputs, targets, counted, ids, {}, {"sides": sides, "reference": logps})


def answer_log_probability(model: Transformer, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """log p(answer | prompt), from all logits of the text alone, in fp64: the definition."""
    tokens = torch.tensor([[*prompt, *answer]])
    found = model(tokens[:, :-1]).double().log_softmax(dim=2)[0]
    wanted = tokens[0, 1:]
    return found[range(len(wanted)), wanted][len(prompt) - 1 :].sum()
