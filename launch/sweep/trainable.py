"""What Ray Tune runs: an actor that holds a trial's resources and follows its `banyan pretrain`.

Tune's own checkpoints hold only a pointer: the trial's run directory has everything.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from ray import tune

from launch.sweep import trial as trials
from launch.sweep.plan import SweepPlan
from launch.sweep.process import Follower, Process, error_in
from launch.sweep.space import to_texts
from launch.sweep.trial import Trial
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.data.tokens.history import total_steps_in
from trainer.errors import STOPPED as STOPPED_AFTER_CHECKPOINT
from trainer.errors import InputError, NonFiniteError
from trainer.run import directory as run_directory
from trainer.track.sinks.journal import METRICS, Row

LOSS, STEP, TOKENS, ENDED = "loss", "step", "tokens", "ended"
"""Keys of a report. ENDED, in the last one, is how the trial's process ended."""

INTERRUPTED = "interrupted"
POINTER = "pointer.json"
_POLL_S = 0.2


class SweepTrial(tune.Trainable):
    """A trial. Each step lasts until the next report; at a stop its ranks checkpoint and end before it lets go."""

    def setup(self, config: dict[str, Any]) -> None:
        """Remembers what to run: `load_checkpoint` may yet tell where from."""
        self._plan = SweepPlan.read(Path(config["trial"]["sweep"]))
        self._values = to_texts(config["trial"]["values"])
        self._trial = Trial.open(self._plan, int(self.trial_name))
        self._process: Process | None = None
        self._follower: Follower | None = None
        self._last_step = 0  # reported
        self._ready: list[Row] = []  # read, and not reported yet

    def load_checkpoint(self, folder: Any) -> None:
        """Where it goes on: after its own pause, or with the weights of a better trial."""
        pointer = json.loads((Path(folder) / POINTER).read_text("utf-8"))
        self._last_step = pointer[STEP]
        run_dir, step = Path(pointer["run_dir"]), pointer[STEP]
        if pointer["number"] != self._trial.number and step < self._steps_from(run_dir, step):
            self._trial.begin(self._values, fork_from=_still_there(run_dir, step))

    def save_checkpoint(self, folder: str) -> None:
        """Says which run and step it is at."""
        pointer = {"number": self._trial.number, "run_dir": str(self._trial.run_dir), STEP: self._last_step}
        (Path(folder) / POINTER).write_text(json.dumps(pointer), "utf-8")

    def step(self) -> dict[str, Any]:
        """Waits for the next report, or the end."""
        if self._follower is None:
            self._begin()
        assert self._follower is not None
        while True:
            exit_code = self._process.exit_code if self._process else 0
            ended = self._process is None or exit_code is not None
            self._ready += [row for row in self._follower.rows() if self._is_due(row)]
            if self._ready and (ended or self._is_saved(self._ready[0])):
                row = self._ready.pop(0)
                self._last_step = row[STEP]
                return {LOSS: self._plan.loss_in(row), STEP: row[STEP], TOKENS: row[TOKENS]}
            if ended:
                return self._end(exit_code)
            if self._process and self._plan.stop_file.exists():
                self._process.ask_to_stop()
            time.sleep(_POLL_S)

    def cleanup(self) -> None:
        """Ends the ranks, unless the last step is taken: then they end by themselves in a moment."""
        if self._process is not None and self._trial.state == trials.RUNNING:
            if not self._took_all_steps():
                self._process.ask_to_stop()
            self._keep(self._process.wait())

    def _begin(self) -> None:
        """Starts its process, unless it ended before: then it only repeats what it reported."""
        if not self._trial.segments:
            self._trial.begin(self._values)
        self._follower = Follower(self._trial.run_dir / METRICS, after_step=self._last_step)
        if self._trial.state in trials.FINAL_STATES or self._plan.stop_file.exists():
            return
        self._trial.write(trials.RUNNING)
        segment = self._trial.segments[-1]
        arguments = self._plan.arguments(segment.values, run_dir=self._trial.run_dir, fork_from=segment.fork_from)
        plan = self._plan
        self._process = Process(arguments, config_dir=plan.config_dir, cwd=plan.cwd, log=self._trial.log)

    def _is_due(self, row: Row) -> bool:
        loss = self._plan.loss_in(row)
        evaluated = self._plan.metric.startswith("eval/")
        return loss is not None and math.isfinite(loss) and (evaluated or row[STEP] % self._plan.every == 0)

    def _is_saved(self, row: Row) -> bool:
        """Whether others could go on from the step; a later one in its place means that saving it failed."""
        later = len(self._ready) > 1
        return not self._plan.reports_saved or later or folder_of(self._trial.run_dir, row[STEP]).is_dir()

    def _steps_from(self, run_dir: Path, step: int) -> int:
        """Steps of this trial if it goes on after another's `step`: by tokens, they depend on the batch sizes."""
        return total_steps_in(run_dir, self._plan.compose(self._values), step=step)

    def _took_all_steps(self) -> bool:
        try:
            config = run_directory.read_config(self._trial.run_dir)
        except InputError:
            return False
        return self._last_step >= total_steps_in(self._trial.run_dir, config, step=self._last_step)

    def _end(self, exit_code: int | None) -> dict[str, Any]:
        state = self._trial.state if self._process is None else self._keep(exit_code)
        return {"done": True, ENDED: INTERRUPTED if state == trials.RUNNING else state}

    def _keep(self, exit_code: int | None) -> str:
        """Keeps how its process ended, and returns the state. One that was asked to stop is to go on."""
        if exit_code == 0:
            self._trial.write(trials.FINISHED)
        elif exit_code == NonFiniteError.exit_code:
            self._trial.write(trials.DIVERGED, error_in(self._trial.log))
        elif exit_code != STOPPED_AFTER_CHECKPOINT and not (self._process and self._process.was_asked):
            self._trial.write(trials.FAILED, error_in(self._trial.log) or f"exit code {exit_code}")
        return self._trial.state


def _still_there(run_dir: Path, step: int) -> str:
    """RUN_DIR@STEP; where retention has removed that checkpoint meanwhile, the run's newest."""
    steps = list_steps(run_dir)
    return f"{run_dir}@{step if step in steps else max(steps)}"
