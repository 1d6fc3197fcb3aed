"""Where the numbers of a run go: metrics.jsonl (durable), the console, W&B. Rank 0 alone holds a Tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import Pretrain
from trainer.machine.durable import write_json
from trainer.track.sinks.console import Console, open_console
from trainer.track.sinks.journal import (
    METRICS,
    SAMPLES,
    Journal,
    cut_metrics,
    metric_row,
    sample_row,
)
from trainer.track.sinks.wandb_run import Plan, WandbRun, journal_rows, start_or_fall_back

FACTS = "facts.json"  # what was found out at the start; `banyan sync` needs it again


class Tracker:
    """Console, metrics.jsonl and W&B behind one `log`."""

    def __init__(self, run_dir: Path, console: Console, wandb_run: WandbRun | None) -> None:
        self._console = console
        self._metrics = Journal(run_dir / METRICS)
        self._samples = Journal(run_dir / SAMPLES)
        self._wandb = wandb_run

    @staticmethod
    def open(
        run_dir: Path,
        config: Pretrain,
        *,
        resolved: dict[str, Any],
        facts: dict[str, Any],
        start_step: int,
        total_steps: int,
    ) -> Tracker:
        """Cuts the journals to `start_step` and starts the console and W&B.

        `resolved` is the resolved configuration. `facts` is what was found out at the start: dataset fingerprints, git
        commit, world size, parameter count. Both go into W&B's config, facts under that key.
        """
        cut_metrics(run_dir, start_step)
        write_json(run_dir / FACTS, facts)
        plan = make_plan(run_dir, config, resolved=resolved, facts=facts)
        console = open_console(total_steps=total_steps, start_step=start_step)
        try:
            wandb_run = start_or_fall_back(plan, say=console.note)
        except BaseException:
            console.close()
            raise
        if wandb_run is not None and wandb_run.online:
            for row in journal_rows(run_dir):  # those that a kill or a dead network kept from the server
                wandb_run.log(row)
        return Tracker(run_dir, console, wandb_run)

    def log(self, *, step: int, tokens: int, metrics: Mapping[str, float]) -> None:
        """Logs metrics of a step: a flushed line of metrics.jsonl, console, W&B.

        More than one call for a step is fine (training, then evaluation) as long as their keys differ.
        """
        row = metric_row(step=step, tokens=tokens, metrics=metrics)
        self._metrics.write(row)
        self._console.row(step, metrics)
        if self._wandb is not None:
            self._wandb.log(row)

    def text(self, *, step: int, name: str, text: str) -> None:
        """Logs a text sample: a line of samples.jsonl, and in W&B `samples/NAME`."""
        row = sample_row(step=step, name=name, text=text)
        self._samples.write(row)
        if self._wandb is not None:
            self._wandb.log(row)

    def note(self, line: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        self._console.note(line)

    def progress(self, *, step: int, loss: float | None = None, tokens_per_second: float | None = None) -> None:
        """Moves the progress bar between logged steps; needs no value from the device."""
        self._console.progress(step, loss, tokens_per_second)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Ends the bar, the journals and the W&B run (85 isn't a failure: the run will go on)."""
        self._metrics.close()
        self._samples.close()
        self._console.close()
        if self._wandb is not None:
            self._wandb.close(exit_code=exit_code, summary=summary)


def make_plan(run_dir: Path, config: Pretrain, *, resolved: dict[str, Any], facts: dict[str, Any]) -> Plan:
    """What the W&B run of a run directory is made from."""
    return Plan(
        run_dir=run_dir,
        name=config.run.name or run_dir.resolve().name,
        settings=config.track.wandb,
        config={**resolved, "facts": facts},
    )
