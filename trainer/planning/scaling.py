"""How a run would scale: the same layout on one node, on two, on four, and so on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.config.plain_values import with_values
from trainer.config.verbs import Plan
from trainer.errors import ConfigError
from trainer.planning.cluster import Cluster
from trainer.planning.search import Candidate, assess, rank
from trainer.planning.time import StepTime
from trainer.rules.pretrain import check_pretrain


@dataclass(frozen=True)
class ScalingPoint:
    """One number of devices. `efficiency` is tokens per second and device, relative to the fewest devices."""

    devices: int
    batch_size: int
    candidate: Candidate
    time: StepTime
    efficiency: float


def scale(config: Plan, cluster: Cluster) -> list[ScalingPoint]:
    """Points from one node to the cluster, by doubling; sizes at which the configuration can't train are left out.

    With plan.best each has the best layout of its own.
    """
    points: list[ScalingPoint] = []
    devices = min(cluster.per_node, cluster.devices)
    while devices <= cluster.devices:
        share = devices / cluster.devices if config.plan.scaling == "weak" else 1.0
        candidate = _at(config, replace(cluster, devices=devices), round(config.train.batch_size * share))
        if candidate is not None and candidate.time is not None:
            speed = candidate.config.train.batch_size / candidate.time.total / devices
            points.append(ScalingPoint(devices, candidate.config.train.batch_size, candidate, candidate.time, speed))
        devices *= 2
    return [replace(point, efficiency=point.efficiency / points[0].efficiency) for point in points]


def _at(config: Plan, cluster: Cluster, batch_size: int) -> Candidate | None:
    changed = with_values(config, {"train.batch_size": batch_size})
    if config.plan.best:
        fitting = rank(changed, cluster).fitting
        return fitting[0] if fitting else None
    try:
        check_pretrain(changed, cluster.devices)
    except ConfigError:
        return None
    candidate = assess(changed, cluster)
    return candidate if candidate.memory.total <= cluster.device.memory else None
