"""The account of a run's energy: what RUN_DIR/energy.json holds, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.config.energy import Energy
from trainer.machine.json_file import Malformed, from_json, read_json

FILE = "energy.json"
JOULES_PER_KWH = 3.6e6


@dataclass
class EnergyAccount:
    """All that the run has used, steps that were lost and done again included."""

    joules: float = 0.0
    seconds: float = 0.0  # of ranks that counted, from their first step on, evaluations and checkpoints included
    gpus: int = 0  # whose counters were read
    hosts: int = 0  # whose processors' counters were read
    ranks: int = 0
    tokens: int = 0  # trained on while joules were counted
    estimated: bool = False  # some of it was, from track.energy.device_watts

    def kwh(self) -> float:
        """Kilowatt hours."""
        return self.joules / JOULES_PER_KWH

    def joules_per_token(self) -> float | None:
        """Joules of a token that was trained on, all else that they went into included; None where none was counted."""
        return self.joules / self.tokens if self.tokens > 0 else None


def read_account(path: Path) -> EnergyAccount | None:
    """What energy.json says; None where there is none, or it isn't one."""
    try:
        return from_json(EnergyAccount, read_json(path))
    except (OSError, Malformed):
        return None


def emissions_kg(account: EnergyAccount, settings: Energy) -> float | None:
    """kg of CO2 equivalents: kWh · PUE · grid's intensity; None where the intensity isn't stated."""
    if settings.grid_gco2_per_kwh is None:
        return None
    return account.kwh() * settings.pue * settings.grid_gco2_per_kwh / 1e3


def energy_in_words(account: EnergyAccount, settings: Energy) -> str:
    """A sentence for the summary, the report and the model card."""
    if account.estimated:
        watts = settings.device_watts
        how = f"estimated from {watts:g} W per device, and no more exact than that" if watts else "partly estimated"
    else:
        gpus = f"{account.gpus:,} GPUs (NVML, within about 5 %)" if account.gpus else ""
        hosts = (
            f"the processors of {account.hosts:,} host{'s' * (account.hosts > 1)} (RAPL, whose makers state no error)"
            if account.hosts
            else ""
        )
        how = f"measured on {' and '.join(filter(None, (gpus, hosts)))}"
    text = f"{account.kwh():.4g} kWh, {how}"
    if (by_token := account.joules_per_token()) is not None:
        text += f"; {by_token:.4g} J per token"
    emitted = emissions_kg(account, settings)
    if emitted is not None:
        text += f"; {emitted:.4g} kg CO2e at {settings.grid_gco2_per_kwh:g} g per kWh and a PUE of {settings.pue:g}"
    return text
