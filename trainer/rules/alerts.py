"""Refuses alerts that would reach nobody."""

from __future__ import annotations

import shutil

from trainer.config.alerts import KINDS
from trainer.config.run import Track
from trainer.errors import ConfigError, require
from trainer.machine.credentials import check_url
from trainer.track.alerts import address_of


def check_alerts(track: Track) -> None:
    """ConfigError for an unknown kind, an address that isn't one or holds a secret, a program that isn't there,
    W&B that isn't online."""
    alerts = track.alerts
    for kind in alerts.on:
        require(kind in KINDS, f"track.alerts.on: {kind} is no kind of alert; choose of {', '.join(KINDS)}.")
    if alerts.webhook:
        check_url("track.alerts.webhook", alerts.webhook)
        try:
            address_of(alerts.webhook)
        except ValueError as error:
            raise ConfigError(
                f"track.alerts.webhook={alerts.webhook}: {error}; give an address, or env:NAME of a variable with one."
            ) from error
    if alerts.command and shutil.which(alerts.command[0]) is None:
        raise ConfigError(
            f"track.alerts.command={alerts.command[0]}: there is no such program; give its path, or mend PATH."
        )
    require(
        not alerts.wandb or track.wandb.mode not in ("offline", "disabled"),
        f"track.alerts.wandb=true with track.wandb.mode={track.wandb.mode}: W&B tells people of runs that are online; "
        "use track.alerts.webhook or track.alerts.command.",
    )
