"""The devices that a plan is for: how many, how many on a node, and what each is."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import Launch
from trainer.config.plan import PlanSettings
from trainer.elastic import workers_of
from trainer.planning.devices import Device, device_of

PER_NODE = 8
DEVICE = "h100"


@dataclass(frozen=True)
class Cluster:
    """So many devices, one for each rank, in nodes."""

    devices: int
    per_node: int
    device: Device


def cluster_of(settings: PlanSettings, launch: Launch) -> Cluster:
    """What plan says, and where it doesn't, what launch asks for; of an elastic run, the most."""
    devices = settings.devices or _asked(launch)
    per_node = settings.per_node or launch.gpus_per_node or PER_NODE
    name = settings.device or launch.device or DEVICE
    return Cluster(devices, per_node, device_of(name, settings, sharing=min(devices, per_node)))


def _asked(launch: Launch) -> int:
    if launch.name == "slurm":
        return launch.nodes * (launch.gpus_per_node or launch.tasks_per_node or 1)
    if launch.name == "ray":
        return workers_of(launch)[1]
    return launch.processes or 1
