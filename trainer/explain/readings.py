"""What is read off a prompt inside a model: losses, logit lens, attention maps, gradients. All numbers are plain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.explain.inside import Inside, input_gradients

CHUNK = 64  # tokens whose logits exist at once
MOST_MAP_VALUES = 2**21  # of all attention maps together: about 25 MB of JSON, 1 to 2 MB of page


@dataclass(frozen=True)
class Likely:
    """A token that a layer holds likely."""

    id: int
    probability: float


@dataclass(frozen=True)
class TokenReading:
    """A token of the prompt. What is of its prediction, from the tokens before it, is None for the first.

    `loss` (-log p) and `entropy` are in nats; `rank` is 1 where no token was likelier. Gradients are of the target's
    loss by this token's embedding; None for tokens after the target's context.
    """

    id: int
    loss: float | None
    entropy: float | None
    rank: int | None
    gradient_x_input: float | None = None
    gradient_norm: float | None = None


@dataclass(frozen=True)
class LensLayer:
    """The logit lens (nostalgebraist 2020) of a layer at each position of the window.

    Layer 0 is the embedding; `kl` is KL(last layer ‖ this layer) in nats, `top` the likeliest tokens.
    """

    layer: int
    kl: list[float]
    top: list[list[Likely]]


@dataclass(frozen=True)
class HeadMap:
    """Where a head looks: a row for each query of the window, which holds its keys of the window up to itself.

    `earlier` is, for each query, what goes to keys before the window: each row and its `earlier` sum to 1.
    """

    rows: list[list[float]]
    earlier: list[float]


@dataclass(frozen=True)
class Target:
    """The token whose loss is differentiated. `position` is where it stands, or would after the prompt."""

    position: int
    id: int
    loss: float


@dataclass(frozen=True)
class Readings:
    """All of a prompt. Lens and maps are of the tokens from `first` and `map_first` on.

    `maps` are of the heads of each layer, from 1, that has attention.
    """

    tokens: list[TokenReading]
    first: int
    lens: list[LensLayer]
    next: list[Likely]
    next_entropy: float
    target: Target
    map_first: int
    maps: dict[int, list[HeadMap]] = field(default_factory=dict)


def read_prompt(
    inside: Inside, ids: list[int], *, window: int, top_k: int, target: tuple[int, int] | None, name: str
) -> Readings:
    """Reads a prompt of `ids`. `window`: last tokens that lens and maps cover.

    `target` is the position and id of the token whose loss is differentiated; None for the last of the prompt, or where
    that is the only one, for the token that is likeliest after it. InputError, with the model's `name`, where its
    logits aren't finite.
    """
    device = inside.embedding.weight.device
    tokens = torch.tensor(ids, device=device)
    first = max(0, len(ids) - window)
    map_first = max(0, len(ids) - min(window, widest_map(inside.attention_heads)))
    maps: dict[int, list[HeadMap]] = {}

    def see_map(layer: int, attention: Tensor) -> None:
        maps[layer] = _heads(attention, map_first)

    residuals = inside.residuals(tokens, first=map_first, see_map=see_map)
    readings, last = _predictions(inside, residuals[-1], ids, name)
    following = likeliest(last, top_k)[0]
    position, number = target or ((len(ids) - 1, ids[-1]) if len(ids) > 1 else (1, following[0].id))
    products, norms, loss = input_gradients(inside, tokens, position - 1, number)
    for place, (product, norm) in enumerate(zip(products.tolist(), norms.tolist(), strict=True)):
        readings[place] = replace(readings[place], gradient_x_input=product, gradient_norm=norm)
    return Readings(
        tokens=readings,
        first=first,
        lens=_lens(inside, [residual[first:] for residual in residuals], top_k),
        next=following,
        next_entropy=_entropies(last)[0].item(),
        target=Target(position, number, loss),
        map_first=map_first,
        maps=maps,
    )


def widest_map(heads: int) -> int:
    """How many tokens a map may be wide, so that those of all heads stay within MOST_MAP_VALUES."""
    return max(1, int((2 * MOST_MAP_VALUES / max(1, heads)) ** 0.5))


def likeliest(log_probabilities: Tensor, top_k: int) -> list[list[Likely]]:
    """The likeliest tokens of each row; those that are equally likely by id. (n, vocab_size) → n lists."""
    values, ids = log_probabilities.sort(dim=-1, descending=True, stable=True)
    count = min(top_k, log_probabilities.shape[-1])
    values, ids = values[:, :count].exp(), ids[:, :count]
    return [
        [Likely(number, value) for number, value in zip(row_ids, row_values, strict=True)]
        for row_ids, row_values in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def _predictions(inside: Inside, residual: Tensor, ids: list[int], name: str) -> tuple[list[TokenReading], Tensor]:
    """Each token's reading, and the log-probabilities of what follows the last: (1, vocab_size)."""
    readings = [TokenReading(ids[0], None, None, None)]
    log_probabilities = torch.zeros(0)
    for begin in range(0, len(ids), CHUNK):
        logits = inside.lens(residual[begin : begin + CHUNK])
        if not logits.isfinite().all():
            raise InputError(f"{name}: its logits aren't finite numbers: its weights are broken or have diverged.")
        log_probabilities = logits.log_softmax(dim=-1)
        following = torch.tensor(ids[begin + 1 : begin + 1 + CHUNK], device=logits.device)
        predicting = log_probabilities[: len(following)]
        own = predicting.gather(1, following[:, None])
        ranks = (predicting > own).sum(dim=-1) + 1
        rows = zip(
            following.tolist(), (-own[:, 0]).tolist(), _entropies(predicting).tolist(), ranks.tolist(), strict=True
        )
        readings += [TokenReading(*row) for row in rows]
    return readings, log_probabilities[-1:]


def _entropies(log_probabilities: Tensor) -> Tensor:
    return torch.special.entr(log_probabilities.exp()).sum(dim=-1)


def _lens(inside: Inside, residuals: list[Tensor], top_k: int) -> list[LensLayer]:
    layers = [LensLayer(number, [], []) for number in range(len(residuals))]
    for begin in range(0, len(residuals[0]), CHUNK):
        part = slice(begin, begin + CHUNK)
        final = inside.lens(residuals[-1][part]).log_softmax(dim=-1)
        for layer, residual in zip(layers, residuals, strict=True):
            ours = inside.lens(residual[part]).log_softmax(dim=-1)
            kl = torch.nn.functional.kl_div(ours, final, reduction="none", log_target=True).sum(dim=-1)
            layer.kl.extend(kl.clamp(min=0.0).tolist())  # rounding alone makes it negative
            layer.top.extend(likeliest(ours, top_k))
    return layers


def _heads(attention: Tensor, first: int) -> list[HeadMap]:
    """Maps of a layer's heads. attention: (heads, queries, time), queries from position `first` on."""
    found = []
    for head in attention.cpu():
        window = head[:, first:].tolist()
        rows = [row[: place + 1] for place, row in enumerate(window)]
        found.append(HeadMap(rows, head[:, :first].sum(dim=-1).tolist()))
    return found
