"""What is reckoned of a run's energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.knobs import knob


@dataclass
class Energy:
    """Energy and what was emitted for it."""

    measure: bool = knob(
        True, "Read the counters of GPUs (NVML) and processors (RAPL), where there are any.", later=True
    )
    device_watts: Optional[float] = knob(
        None,
        "Where there is no counter: the mean power of a rank's device, from which energy is estimated, and called so.",
        "watts",
        later=True,
    )
    pue: float = knob(
        1.0, "Energy of the whole data centre over that of its computers, for emissions.", low=1, high=10, later=True
    )
    grid_gco2_per_kwh: Optional[float] = knob(
        None, "What the grid emits; without it no emissions are stated.", "g CO2e per kWh", later=True
    )
