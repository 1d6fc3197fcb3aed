"""How a running sweep is stopped: at Ctrl-C or SIGTERM its trials checkpoint, and the same command goes on later."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class TrialStopper(tune.Stopper):
    """Signals become a file that every trial looks for; Tune stops once those that ran have ended.

    A second signal doesn't wait for them.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._awaited: set[str] | None = None
        self.count = 0

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Listens for signals. To be entered after ray.init, which has handlers of its own."""
        self._file.unlink(missing_ok=True)
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._file.unlink(missing_ok=True)

    def listen(self) -> None:
        """Has signals come here: Tune, too, takes SIGUSR1 for itself when it begins."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def look(self, trials: list[TuneTrial]) -> None:
        """Sees which trials still run. Called between two steps of Tune's."""
        if self.count:
            running = {trial.trial_id for trial in trials if trial.status == TuneTrial.RUNNING}
            self._awaited = running if self._awaited is None else self._awaited & running

    def stop_all(self) -> bool:
        """Whether nothing is waited for any more."""
        return self.count > 1 or self._awaited == set()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped."""
        return False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            print("stopping: trials checkpoint and end; once more to end them at once", flush=True)
            self._file.touch()
