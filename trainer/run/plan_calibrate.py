"""What `plan.calibrate=RUN_DIR` takes from a run: how long its steps were, and how much memory they took."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

from trainer.config.plan import PlanSettings
from trainer.errors import BanyanError, ConfigError
from trainer.planning.cluster import Cluster
from trainer.planning.layout import Layout
from trainer.planning.measured import RunMeasure
from trainer.planning.memory import memory_of
from trainer.planning.time import step_time
from trainer.report.run_page.journal import RunSeries, read_series
from trainer.run.plan_measured import device_named, layout_of_run
from trainer.run.run_folders import is_run
from trainer.track.sinks.starts import Life, read_lives

FEWEST = 3  # logged rows; the first has compiling and warming up in it
SLOWEST, FASTEST = 1e8, 1e16  # FLOP/s that a CPU's peak is looked for between
PER_NODE = 8


def calibrated(settings: PlanSettings, cluster: Cluster, device_given: bool) -> Cluster:
    """The cluster with what the run of plan.calibrate measured; ConfigError in one line where it measured nothing.

    With `device_given` the run must have been on that device; without, the plan is for the run's.
    """
    key = f"plan.calibrate={settings.calibrate}"
    path = Path(str(settings.calibrate)).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{key}: there is no such folder; name a run directory, as in plan.calibrate=runs/NAME.")
    if not is_run(path):
        raise ConfigError(f"{key}: isn't the directory of a run, which has config.yaml and metrics.jsonl.")
    try:
        lives, series = read_lives(path), read_series(path)
        if not lives:
            raise ConfigError("on what and on how many ranks it ran wasn't recorded")
        layout = layout_of_run(path, lives[-1].start)
    except (BanyanError, ValueError, LookupError, ArithmeticError, OSError) as error:
        raise ConfigError(
            f"{key}: {str(error).rstrip('.')}; calibrate with a pretraining that logged some steps."
        ) from None
    return _measure(key, path, series, lives[-1], layout, cluster, settings, device_given)


def _measure(
    key: str,
    path: Path,
    series: RunSeries,
    life: Life,
    layout: Layout,
    cluster: Cluster,
    settings: PlanSettings,
    device_given: bool,
) -> Cluster:
    own = device_named(life.start.device, settings)
    if own is None:
        raise ConfigError(f"{key}: it ran on {life.start.device!r}, which isn't in the table of docs/PLANNING.md.")
    if device_given and own.key != cluster.device.key:
        raise ConfigError(
            f"{key}: it ran on {own.name}, and the plan is for {cluster.device.name}: calibrate with a run on that "
            "device, or leave out plan.device."
        )
    steps = _since(series, "perf/step_seconds", life)[1:]
    if len(steps) < FEWEST - 1:
        raise ConfigError(
            f"{key}: it logged fewer than {FEWEST} rows since its last start; train longer, or track.every=1."
        )
    measured = statistics.median(steps)
    ran_on = Cluster(life.start.ranks, min(life.start.ranks, PER_NODE), own)
    if own.flops is None:
        peak = _peak(layout, ran_on, settings, measured)
        own = dataclasses.replace(own, flops=peak, flops_fp32=peak)
        ran_on = dataclasses.replace(ran_on, device=own)
    predicted = step_time(layout, ran_on, settings)
    assert predicted is not None, "the device has a peak"
    held = max(_since(series, "perf/memory_bytes", life), default=0.0)
    tensors = memory_of(layout).allocated
    found = RunMeasure(
        source=f"{path}: {life.start.ranks} × {own.name}, {len(steps)} rows of {measured:.4g} s a step",
        time=measured / predicted.total,
        memory=held / tensors if held and own.cuda else 1.0,
        libraries=max(0, round(held) - tensors) if held and not own.cuda else None,
    )
    if not own.cuda:
        own = dataclasses.replace(own, memory=own.memory // min(cluster.devices, cluster.per_node))
    return dataclasses.replace(cluster, device=cluster.device if own.cuda and device_given else own, measured=found)


def _since(series: RunSeries, name: str, life: Life) -> list[float]:
    """Logged values of the last start: those before may have had another layout."""
    found = series.metrics.get(name)
    return [value for step, value in found.means() if step > life.start.step] if found is not None else []


def _peak(layout: Layout, ran_on: Cluster, settings: PlanSettings, measured: float) -> float:
    """The peak that a device without one in the table would have, by the run's time; found by halving."""
    slow, fast = SLOWEST, FASTEST
    for _ in range(60):
        middle = (slow * fast) ** 0.5
        device = dataclasses.replace(ran_on.device, flops=middle, flops_fp32=middle)
        time = step_time(layout, dataclasses.replace(ran_on, device=device), settings)
        assert time is not None, "it was given a peak"
        slow, fast = (middle, fast) if time.total > measured else (slow, middle)
    return slow
