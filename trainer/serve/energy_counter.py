"""Joules since the server began, for /metrics: what processors and GPU count themselves, where they do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from trainer.machine.energy import open_nvml, open_rapl


class JouleMeter(Protocol):
    """A counter of joules."""

    kind: str

    def joules(self) -> float:
        """The counter; only differences mean something."""
        ...


class EnergyCounter:
    """A collector of prometheus_client's. Whatever else runs on a device is counted as well."""

    def __init__(self, model_name: str, meters: Sequence[JouleMeter]) -> None:
        self._model_name = model_name
        self._meters = [(meter, meter.joules()) for meter in meters]

    def collect(self) -> Iterator[Any]:
        """The counters at the moment of a scrape."""
        from prometheus_client.core import CounterMetricFamily

        text = "Joules since the server began, by the device's own account."
        family = CounterMetricFamily("banyan:energy_joules", text, labels=("model_name", "device"))
        for meter, began in self._meters:
            family.add_metric((self._model_name, meter.kind), meter.joules() - began)
        yield family


def find_meters() -> list[JouleMeter]:
    """The counters that can be read: of all processors, and of the GPU that serves."""
    found = [open_rapl()]
    if torch.cuda.is_available():
        found.append(open_nvml(f"GPU-{torch.cuda.get_device_properties(0).uuid}"))  # type: ignore[arg-type]
    return [meter for meter in found if meter is not None]
