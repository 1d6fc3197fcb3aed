"""Who is told when something happens to a run that nobody watches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.knobs import knob

FINISHED, STOPPED, CRASH, STALL, SPIKE, DISK = KINDS = ("finished", "stop", "crash", "stall", "spike", "disk")


@dataclass
class Alerts:
    """Alerts of a run: a message by webhook, a command, W&B."""

    webhook: Optional[str] = knob(
        None,
        "http(s) address that gets each alert as a JSON object whose text Slack, Mattermost and Discord (/slack) show. "
        "env:NAME is what that variable holds, which then isn't stored.",
        later=True,
    )
    command: list[str] = knob(
        [], "Program with its arguments, run for each alert, which it gets as JSON on its standard input.", later=True
    )
    wandb: bool = knob(False, "Send alerts by W&B, too, where it is online.", later=True)
    on: list[str] = knob(list(KINDS), f"Kinds that are sent, of {', '.join(KINDS)}.", later=True)
    every_minutes: float = knob(30.0, "At most one alert of a kind in so long.", "minutes", later=True)
    disk_free: float = knob(
        0.05, "Share of the run's disk that is free, below which it is said to be nearly full.", high=1, later=True
    )

    @property
    def is_on(self) -> bool:
        """Whether anybody is told."""
        return bool(self.webhook or self.command or self.wandb)
