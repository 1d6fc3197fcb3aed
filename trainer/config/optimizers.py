"""What every room may know of an optimiser without torch: a row each. trainer/engine/optimizers/NAME.py builds it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerState:
    """What is kept for each element of a parameter, in fp32, by torch's names: for `hidden` matrices and the rest.

    `hidden` is None where the blocks' matrices are stepped like all else.
    """

    rest: tuple[str, ...]
    hidden: tuple[str, ...] | None = None

    def of(self, *, is_hidden: bool) -> tuple[str, ...]:
        """The kinds kept for a parameter."""
        return self.hidden if is_hidden and self.hidden is not None else self.rest


OPTIMIZERS: dict[str, OptimizerState] = {
    "adamw": OptimizerState(("exp_avg", "exp_avg_sq")),
    "lion": OptimizerState(("exp_avg",)),
    "muon": OptimizerState(("exp_avg", "exp_avg_sq"), hidden=("momentum_buffer",)),
    "sgd": OptimizerState(("momentum_buffer",)),
}
