"""The scaling law's fit: known constants are found again, and too little is refused."""

import itertools
import math
import random

import pytest

from trainer.errors import InputError
from trainer.planning.scaling_law import FLOPS_PER_PARAMETER_TOKEN, Law, MeasuredRun, fit_law

CHINCHILLA = Law(e=1.69, a=406.4, b=410.7, alpha=0.34, beta=0.28)
SIZES = (1e6, 3e6, 1e7, 3e7, 1e8)
BUDGETS = (5, 20, 80)


def measure(law, noise=0.0, seed=0):
    draw = random.Random(seed)
    return [
        MeasuredRun(n, n * budget, law.loss(n, n * budget) * math.exp(draw.gauss(0, noise)))
        for n, budget in itertools.product(SIZES, BUDGETS)
    ]


def test_constants_of_exact_losses_are_found():
    fit = fit_law(measure(CHINCHILLA), resamples=20)
    for constant in ("e", "alpha", "beta"):
        assert getattr(fit.law, constant) == pytest.approx(getattr(CHINCHILLA, constant), rel=0.02)
    assert fit.worst_error < 1e-4
    assert fit.law.loss(1e9, 2e10) == pytest.approx(CHINCHILLA.loss(1e9, 2e10), rel=2e-3)


def test_noise_widens_the_interval_which_holds_the_truth():
    exact, noisy = fit_law(measure(CHINCHILLA), resamples=30), fit_law(measure(CHINCHILLA, 0.004), resamples=30)
    truth = CHINCHILLA.loss(4e8, 8e9)
    low, high = noisy.loss_interval(4e8, 8e9)
    assert low <= truth <= high
    exact_low, exact_high = exact.loss_interval(4e8, 8e9)
    assert high - low > exact_high - exact_low
    assert noisy.law.loss(4e8, 8e9) == pytest.approx(truth, rel=0.03)


def test_best_size_is_the_lowest_loss_at_its_compute():
    flops = 1e19
    best, tokens = CHINCHILLA.best_size(flops)
    assert FLOPS_PER_PARAMETER_TOKEN * best * tokens == pytest.approx(flops)
    lowest = CHINCHILLA.loss(best, tokens)
    for factor in (0.8, 0.95, 1.05, 1.25):
        assert CHINCHILLA.loss(best * factor, tokens / factor) > lowest


def test_one_outlier_hardly_moves_the_fit():
    runs = measure(CHINCHILLA)
    runs[7] = MeasuredRun(runs[7].parameters, runs[7].tokens, runs[7].loss * 1.1)
    assert fit_law(runs, resamples=20).law.loss(4e8, 8e9) == pytest.approx(CHINCHILLA.loss(4e8, 8e9), rel=0.01)


def test_the_same_runs_give_the_same_intervals():
    runs = measure(CHINCHILLA, 0.01)
    assert fit_law(runs, resamples=20, seed=1) == fit_law(runs, resamples=20, seed=1)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (measure(CHINCHILLA)[:5], "5 runs, 6 needed"),
        ([MeasuredRun(n, d, 3.0) for n in SIZES[:2] for d in (1e7, 2e7, 3e7)], "2 sizes, 3 needed"),
        ([MeasuredRun(n, 1e7, 3.0) for n in (*SIZES, 2e8)], "1 token budgets, 3 needed"),
    ],
)
def test_too_little_is_refused(runs, message):
    with pytest.raises(InputError, match=message):
        fit_law(runs, resamples=20)
