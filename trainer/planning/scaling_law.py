"""The scaling law L(N, D) = E + A / N^α + B / D^β, fitted to losses of runs of N parameters on D tokens.

Hoffmann et al., "Training Compute-Optimal Large Language Models" (2022), section 3.3, approach 3. N counts all
parameters, embedding and head included, and a run takes 6 N D floating-point operations, as there. Pure functions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.errors import InputError

FLOPS_PER_PARAMETER_TOKEN = 6
HUBER_DELTA = 1e-3  # of the logarithm of the loss, as in the paper
EXPONENTS = tuple(itertools.product(np.geomspace(0.05, 2.0, 12), repeat=2))  # (α, β) that the minimiser may begin with
STARTS = 4  # of which it takes the best
FEWEST_RUNS, FEWEST_SIZES, FEWEST_BUDGETS = 6, 3, 3
LEVEL = 0.95  # of the confidence intervals

Interval = tuple[float, float]


@dataclass(frozen=True)
class MeasuredRun:
    """One measured point: the final loss, in nats per token, of N parameters trained on D tokens."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Law:
    """The five constants."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D), in nats per token."""
        return self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta

    def best_size(self, flops: float) -> tuple[float, float]:
        """(N, D) with the lowest loss among all that take `flops` = 6 N D: equation 4 of the paper."""
        product = flops / FLOPS_PER_PARAMETER_TOKEN
        g = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        parameters = g * product ** (self.beta / (self.alpha + self.beta))
        return parameters, product / parameters


@dataclass(frozen=True)
class Fit:
    """A law, and the laws of bootstrap resamples of the same runs, which show how sure it is."""

    law: Law
    resampled: tuple[Law, ...]
    runs: tuple[MeasuredRun, ...]

    def interval(self, constant: str) -> Interval:
        """Confidence interval of a constant."""
        return _interval([getattr(law, constant) for law in self.resampled])

    def loss_interval(self, parameters: float, tokens: float) -> Interval:
        """Confidence interval of a predicted loss: of the fit alone, not of a single run's luck."""
        return _interval([law.loss(parameters, tokens) for law in self.resampled])

    def best_size_interval(self, flops: float) -> Interval:
        """Confidence interval of the best number of parameters."""
        return _interval([law.best_size(flops)[0] for law in self.resampled])

    @property
    def worst_error(self) -> float:
        """The largest relative error of the law on the runs that it was fitted to."""
        return max(abs(self.law.loss(run.parameters, run.tokens) / run.loss - 1) for run in self.runs)


def fit_law(runs: Sequence[MeasuredRun], *, resamples: int, seed: int = 0) -> Fit:
    """Fits the law, and again to bootstrap resamples. InputError where there are too few runs for five constants."""
    require_enough(runs)
    law = _minimise(runs)
    generator = np.random.default_rng(seed)
    resampled: list[Law] = []
    while len(resampled) < resamples:
        drawn = [runs[index] for index in generator.integers(len(runs), size=len(runs))]
        if _problem(drawn, runs=FEWEST_RUNS, sizes=2, budgets=2) is None:
            resampled.append(_minimise(drawn, law))
    return Fit(law, tuple(resampled), tuple(runs))


def require_enough(runs: Sequence[MeasuredRun]) -> None:
    """InputError where these runs don't determine five constants."""
    problem = _problem(runs, runs=FEWEST_RUNS, sizes=FEWEST_SIZES, budgets=FEWEST_BUDGETS)
    if problem:
        raise InputError(f"no scaling law can be fitted: {problem}; add widths or budgets to the ladder.")


def _problem(drawn: Sequence[MeasuredRun], *, runs: int, sizes: int, budgets: int) -> str | None:
    counts = {
        "runs": (len(drawn), runs),
        "sizes": (len({run.parameters for run in drawn}), sizes),
        "token budgets": (len({run.tokens for run in drawn}), budgets),
    }
    short = [f"{count} {name}, {fewest} needed" for name, (count, fewest) in counts.items() if count < fewest]
    return short[0] if short else None


def _minimise(runs: Sequence[MeasuredRun], near: Law | None = None) -> Law:
    """The law with the lowest Huber loss of log L, by L-BFGS from the best of many starts, or from one `near` it.

    N and D are divided by their geometric means, which makes the constants nearly independent.
    """
    from scipy.optimize import minimize

    n, d, losses = (np.array([getattr(run, name) for run in runs]) for name in ("parameters", "tokens", "loss"))
    middle_n, middle_d = np.exp(np.log(n).mean()), np.exp(np.log(d).mean())
    logs = np.log(n / middle_n), np.log(d / middle_d), np.log(losses)
    exponents = EXPONENTS if near is None else [(near.alpha, near.beta)]
    starts = sorted((_start(*logs, *pair) for pair in exponents), key=lambda start: _huber(start, *logs)[0])
    limits = [(-40.0, 20.0), (-40.0, 20.0), (-40.0, 20.0), (0.01, 3.0), (0.01, 3.0)]
    found = [minimize(_huber, start, logs, jac=True, method="L-BFGS-B", bounds=limits) for start in starts[:STARTS]]
    a, b, e, alpha, beta = min(found, key=lambda result: result.fun).x
    return Law(
        e=math.exp(e),
        a=math.exp(a) * middle_n**alpha,
        b=math.exp(b) * middle_d**beta,
        alpha=float(alpha),
        beta=float(beta),
    )


def _start(log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """For given exponents the law is linear in E, A and B: those with the least squares of the relative error."""
    from scipy.optimize import nnls

    columns = np.stack([np.exp(-alpha * log_n), np.exp(-beta * log_d), np.ones_like(log_n)], axis=1)
    linear, _ = nnls(columns / np.exp(log_loss)[:, None], np.ones_like(log_n))
    return np.array([*np.log(np.maximum(linear, 1e-6)), alpha, beta])


def _huber(x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum over runs of the Huber loss of log L(N, D) − log L, scaled to about 1, and its gradient.

    x is (log A, log B, log E, α, β); log L(N, D) is the log-sum-exp of the three terms' logarithms.
    """
    a, b, e, alpha, beta = x
    terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])  # (3, runs)
    highest = terms.max(axis=0)
    sums = np.exp(terms - highest).sum(axis=0)
    error = highest + np.log(sums) - log_loss
    shares = np.exp(terms - highest) / sums  # (3, runs): derivatives of the log-sum-exp
    outside = np.abs(error) > HUBER_DELTA
    value = np.where(outside, HUBER_DELTA * (np.abs(error) - HUBER_DELTA / 2), error**2 / 2).sum()
    error_gradient = np.clip(error, -HUBER_DELTA, HUBER_DELTA)
    by_term = shares * error_gradient
    gradient = np.array(
        [by_term[0].sum(), by_term[1].sum(), by_term[2].sum(), -(by_term[0] * log_n).sum(), -(by_term[1] * log_d).sum()]
    )
    return float(value / HUBER_DELTA**2), gradient / HUBER_DELTA**2


def _interval(values: Sequence[float]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
