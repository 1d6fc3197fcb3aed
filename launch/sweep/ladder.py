"""The runs of a scaling ladder: every width with every budget of tokens, and the larger size that is held out.

A size widens the configured model by more heads of the same width (where muP keeps the best learning rate), and, with
search.ladder.aspect, deepens it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from launch.sweep.space import Values
from trainer.config import Ladder, Model
from trainer.errors import ConfigError, divisors, require
from trainer.model.sizes import head_width
from trainer.planning.scaling_law import FLOPS_PER_PARAMETER_TOKEN

MULTIPLE = 8  # of a feed-forward's width
FEWEST_POINTS = 6  # for five constants


@dataclass(frozen=True)
class Rung:
    """One run of a ladder."""

    parameters: int
    tokens: int
    values: Values
    is_holdout: bool = False

    @property
    def flops(self) -> float:
        """Compute that it takes, floating-point operations."""
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.tokens


def rungs_of(ladder: Ladder, model: Model) -> list[Rung]:
    """The runs, small ones first, the held-out one last. ConfigError where no law could be fitted to them."""
    widths, budgets = sorted(set(ladder.widths)), sorted(set(ladder.tokens_per_parameter))
    require(
        len(widths) >= 3 and len(budgets) >= 2 and len(widths) * len(budgets) >= FEWEST_POINTS,
        f"search.ladder.widths={widths} and search.ladder.tokens_per_parameter={budgets}: five constants need at "
        f"least 3 widths and 2 budgets, {FEWEST_POINTS} runs in all; give more.",
    )
    require(
        ladder.holdout is None or ladder.holdout > widths[-1],
        f"search.ladder.holdout={ladder.holdout}: the held-out size must be above the largest width, {widths[-1]}.",
    )
    rungs = [rung_of(width, budget, ladder, model) for width in widths for budget in budgets]
    if ladder.holdout is not None:
        budget = ladder.holdout_tokens_per_parameter or budgets[-1]
        rungs.append(replace(rung_of(ladder.holdout, budget, ladder, model), is_holdout=True))
    return rungs


def rung_of(width: int, tokens_per_parameter: float, ladder: Ladder, model: Model) -> Rung:
    """The run of a width at a budget."""
    scaled = widen(model, width, ladder.aspect)
    parameters = count_parameters(scaled)
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    values = {f"model.{key}": str(getattr(scaled, key)) for key in keys}
    tokens = round(parameters * tokens_per_parameter)
    return Rung(parameters, tokens, values | {"train.tokens": str(tokens)})


def widen(model: Model, width: int, aspect: float | None) -> Model:
    """The model at another hidden_size: as many more heads, the same shape of feed-forward."""
    head_dim = head_width(model)
    if width % head_dim:
        raise ConfigError(
            f"search.ladder: width {width} is no multiple of the heads' width, {head_dim}; choose others, or lower "
            "model.head_dim."
        )
    heads = width // head_dim
    wanted = heads * model.num_key_value_heads / model.num_attention_heads
    kv_heads = max((count for count in divisors(heads) if count <= wanted), default=1)
    feed_forward = model.intermediate_size * width / model.hidden_size
    return replace(
        model,
        hidden_size=width,
        intermediate_size=max(1, round(feed_forward / MULTIPLE)) * MULTIPLE,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_hidden_layers=max(1, round(width / aspect)) if aspect else model.num_hidden_layers,
    )


def count_parameters(model: Model) -> int:
    """All parameters, embedding and head included, as in Hoffmann et al. (2022)."""
    import torch

    from trainer.model.decoder import Transformer

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(model).parameters())
