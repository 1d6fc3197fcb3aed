"""track.alerts: what rank 0 sees of a run that somebody should be told: its end, spikes, a disk that fills up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config.alerts import DISK, FINISHED, SPIKE, STOPPED, Alerts
from trainer.errors import STOPPED as STOPPED_CODE
from trainer.track.alerts import Alerter
from trainer.track.sinks.journal import Row
from trainer.track.sinks.sink import Sink, Start
from trainer.track.spike_record import SpikeRecord

LOOK_AT_DISK_S = 60.0


class AlertSink(Sink):
    """Raises alerts from what is logged."""

    def __init__(self, settings: Alerts, run_dir: Path, total_steps: int, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._alerter = Alerter(settings, run_dir, say)
        self._say = say
        self._run_dir = run_dir
        self._total_steps = total_steps
        self._step = 0
        self._looked = float("-inf")

    def opened(self, sinks: Sequence[Sink]) -> None:
        """W&B's sink tells people by a way of its own, where it is online."""
        if not self._settings.wandb:
            return
        ways = [sink.alert for sink in sinks if sink.tells_people]
        self._alerter.add_way("W&B", *ways)
        if not ways:
            others = self._settings.webhook or self._settings.command
            alone = "" if others else ": nobody is told of anything; set track.alerts.webhook or track.alerts.command"
            self._say(f"track.alerts.wandb: W&B isn't online, and sends no alert{alone}")

    def row(self, row: Row) -> None:
        """The disk, now and then."""
        self._step = row["step"]
        if time.monotonic() - self._looked > LOOK_AT_DISK_S:
            self._looked = time.monotonic()
            self._look_at_disk()

    def spike(self, spike: SpikeRecord) -> None:
        """A spike, and the command that shows its data."""
        loss = spike.figures.get("train/loss")
        about = [f"loss {loss:.4g}" if loss is not None else "", spike.outcome]
        said = f" ({', '.join(filter(None, about))})" if any(about) else ""
        text = f"the loss or the gradient norm spiked at step {spike.step}{said}; what it was made of: {spike.command}"
        self._alerter.alert(SPIKE, text, step=spike.step)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> None:
        """Finished or stopped; an error is told by who started the ranks (launch/alerts.py), and knows better."""
        step, of = self._step, f"step {self._step} of {self._total_steps}"
        if exit_code == 0:
            self._alerter.alert(FINISHED, f"finished, {of}", step=step)
        elif exit_code == STOPPED_CODE:
            self._alerter.alert(STOPPED, f"stopped after {of}, checkpointed; the same command goes on", step=step)
        self._alerter.finish()

    def _look_at_disk(self) -> None:
        try:
            usage = shutil.disk_usage(self._run_dir)
        except OSError:
            return
        share = usage.free / max(1, usage.total)
        if share < self._settings.disk_free:
            left = f"{share:.1%} ({usage.free / 1e9:.1f} GB) is left"
            self._alerter.alert(DISK, f"the disk of {self._run_dir} is nearly full: {left}", step=self._step)


def open_sink(start: Start, say: Callable[[str], None]) -> Sink | None:
    """The sink, if track.alerts names somebody to tell."""
    settings = start.config.track.alerts
    if not settings.is_on:
        return None
    return AlertSink(settings, start.run_dir, start.total_steps, say)
