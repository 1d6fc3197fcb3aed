"""What a person sees of a running sweep: a line for each trial that ends, and now and then those that run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from launch.sweep.plan import SweepPlan
from launch.sweep.space import Values, as_typed
from launch.sweep.stop import TrialStopper
from launch.sweep.trainable import ENDED, INTERRUPTED, LOSS, STEP
from launch.sweep.trial import FAILED, RUNNING, STOPPED, Trial
from trainer.track.sinks.console import duration

TABLE_EVERY_S = 60.0


class Watch(tune.Callback):
    """Prints, and keeps which trials the scheduler stopped. `ended`: before this start; `of`: of how many."""

    def __init__(self, plan: SweepPlan, stops: TrialStopper, *, ended: Collection[int], of: int) -> None:
        self._plan, self._stops, self._of = plan, stops, of
        self._before = frozenset(ended)
        self._begun = self._shown = time.monotonic()
        self._latest: dict[int, tuple[int, float]] = {}  # step and loss by number
        self._ended: dict[int, str] = {}  # state by number

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Tune has begun, and taken signals for itself."""
        self._stops.listen()

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Between two steps of Tune's."""
        self._stops.look(trials)
        if time.monotonic() - self._shown > TABLE_EVERY_S:
            self._shown = time.monotonic()
            self._table([int(str(trial)) for trial in trials if trial.status == TuneTrial.RUNNING])

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """A report."""
        if LOSS in result:
            self._latest[int(str(trial))] = (result[STEP], result[LOSS])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial has ended by itself, or the scheduler stopped it."""
        ended = (trial.last_result or {}).get(ENDED)
        if ended == INTERRUPTED or (ended is None and self._stops.count) or int(str(trial)) in self._before:
            return
        record = Trial.open(self._plan, int(str(trial)))
        if ended is None and record.state == RUNNING:
            record.mark_stopped()
            record.state = STOPPED
        self._announce(record)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial's actor was lost more often than it may be."""
        record = Trial.open(self._plan, int(str(trial)))
        record.state, record.error = FAILED, f"its Ray worker was lost ({_first_line(trial.get_error())})"
        self._announce(record)

    def _announce(self, record: Trial) -> None:
        self._ended[record.number] = record.state
        error = f"  {record.error}" if record.error else ""
        print(f"trial {self._line(record.number, record.state, record.values)}{error}", flush=True)

    def _table(self, running: list[int]) -> None:
        counts = Counter(self._ended.values())
        counted = ", ".join([f"{count} {state}" for state, count in counts.items()] + [f"{len(self._before)} before"])
        after = duration(time.monotonic() - self._begun)
        count = len(self._before) + len(self._ended)
        print(f"after {after}: {count} of {self._of} trials ended ({counted})", flush=True)
        for number in running:
            print(f"  {self._line(number, RUNNING, Trial.open(self._plan, number).values)}", flush=True)

    def _line(self, number: int, state: str, values: Values) -> str:
        step, loss = self._latest.get(number, (0, None))
        measured = f"step {step:>6}  loss {loss:.4f}" if loss is not None else "no report yet"
        return f"{number:05d}  {state:<8}  {measured}  {as_typed(values)}".rstrip()


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
