"""Which values the trials have: a list that is known beforehand, or what Optuna makes of the trials so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from launch.sweep import trial as trials
from launch.sweep.space import Distribution, Space, Values, to_numbers
from launch.sweep.trainable import ENDED, INTERRUPTED, LOSS, STEP

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 5  # drawn at random before the estimator has something to go by


class ParzenSearcher(Searcher):
    """Optuna's tree-structured Parzen estimator (Bergstra et al., 2011; Watanabe, 2023).

    Unlike Tune's own OptunaSearch it tells Optuna which trials were stopped early, and where, so that a loss after few
    steps isn't taken for that of a whole trial. `known` are the values of trials that a former start began, by
    number: they are suggested, and so told, again.
    """

    def __init__(self, space: Space, *, trials: int, seed: int, known: Mapping[int, Values], sweep: str) -> None:
        import optuna

        super().__init__(metric=LOSS, mode="min")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True)
        self._study = optuna.create_study(sampler=sampler)
        self._space, self._sweep, self._trials = space, sweep, trials
        self._known = known
        self._next = 0
        self._asked: dict[str, optuna.Trial] = {}
        self._reports: dict[str, dict[int, float]] = {}  # Optuna copies all trials where one is asked for

    def suggest(self, trial_id: str) -> Any:
        """What Tune is to try next, or that all has been."""
        if self._next >= self._trials:
            return Searcher.FINISHED
        number, self._next = self._next, self._next + 1
        if number in self._known:
            self._study.enqueue_trial(to_numbers(self._known[number], self._space))
        trial = self._study.ask({key: distribution_for_optuna(item) for key, item in self._space.items()})
        self._asked[trial_id] = trial
        return {"trial": {"sweep": self._sweep, "number": number, "values": trial.params}}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tells Optuna of a report."""
        if LOSS in result:
            self._asked[trial_id].report(result[LOSS], result[STEP])
            self._reports.setdefault(trial_id, {}).setdefault(result[STEP], result[LOSS])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how a trial ended: only one that took all its steps has a final loss."""
        from optuna.trial import TrialState

        trial = self._asked.pop(trial_id)
        ended = (result or {}).get(ENDED)
        reports = self._reports.pop(trial_id, {})
        if error or ended in (trials.FAILED, INTERRUPTED):
            self._study.tell(trial, state=TrialState.FAIL)
        elif ended == trials.FINISHED and reports:
            self._study.tell(trial, reports[max(reports)])
        else:
            if ended == trials.DIVERGED or not reports:
                trial.report(math.nan, max(reports, default=0) + 1)  # the worst there is
            self._study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Keeps nothing: a start asks for the known trials again."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: `save` keeps nothing."""


def distribution_for_optuna(distribution: Distribution) -> optuna.distributions.BaseDistribution:
    """The distribution in Optuna's terms."""
    from optuna import distributions

    if not distribution.is_range:
        return distributions.CategoricalDistribution(distribution.values)
    if distribution.kind == "int":
        return distributions.IntDistribution(int(distribution.low), int(distribution.high))
    return distributions.FloatDistribution(distribution.low, distribution.high, log=distribution.kind == "loguniform")
