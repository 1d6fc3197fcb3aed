"""What `banyan plan` predicts of a run's layout, beside what the run measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from trainer.config import Pretrain
from trainer.config.plain_values import with_values
from trainer.config.plan import PlanSettings
from trainer.config.stored import from_values, load_values
from trainer.data.tokens.datasets import with_length
from trainer.errors import BanyanError
from trainer.planning.cluster import Cluster
from trainer.planning.devices import DEVICES, Device, device_of
from trainer.planning.layout import Layout, layout_of
from trainer.planning.memory import memory_of
from trainer.planning.time import step_time
from trainer.report.run_page.journal import RunSeries
from trainer.report.run_page.record import PlanRow
from trainer.run.directory import CONFIG
from trainer.track.metrics import peak_flops
from trainer.track.sinks.starts import Life, RunStart

GB = 1e9


def compare_plan(run_dir: Path, series: RunSeries, lives: Sequence[Life]) -> tuple[tuple[PlanRow, ...], str]:
    """The comparison; or none, and why."""
    if not lives:
        return (), "Not known: on how many ranks it ran wasn't recorded."
    try:
        return tuple(_compare(run_dir, series, lives[-1].start)), ""
    except (BanyanError, ValueError, ArithmeticError, LookupError) as error:
        return (), f"banyan plan has no answer for this run: {error}"


def layout_of_run(run_dir: Path, start: RunStart) -> Layout:
    """The layout that a start of a run had; ValueError where plan doesn't know its model."""
    config = with_length(from_values(Pretrain, load_values(run_dir / CONFIG)))
    if config.model.path is not None or config.model.kind != "decoder" or config.adapt.name != "full":
        raise ValueError("it plans trainings of Banyan's own decoder in full")
    micro = start.layout.get("micro_batch_size")
    if isinstance(micro, int):
        config = with_values(config, {"train.micro_batch_size": micro})
    return layout_of(config, start.ranks, cuda=start.device not in ("", "cpu"))


def _compare(run_dir: Path, series: RunSeries, start: RunStart) -> list[PlanRow]:
    layout = layout_of_run(run_dir, start)
    cuda = layout.cuda
    memory = memory_of(layout)
    rows = [_memory(memory.allocated, series, cuda=cuda)]
    device = device_named(start.device, PlanSettings())
    time = step_time(layout, Cluster(start.ranks, min(start.ranks, 8), device), PlanSettings()) if device else None
    measured = _median(series, "perf/step_seconds")
    predicted = f"{time.total:.4g} s" if time else "not known: no peak of this device"
    difference = f"{measured / time.total - 1:+.0%}" if time and measured else ""
    rows.append(PlanRow("Time of a step", predicted, f"{measured:.4g} s (median)" if measured else "", difference))
    mfu = _median(series, "perf/mfu")
    rows.append(
        PlanRow("MFU", f"{time.mfu:.1%}" if time else "not known", f"{mfu:.1%} (median)" if mfu else "not measured")
    )
    return rows


def _memory(predicted: int, series: RunSeries, *, cuda: bool) -> PlanRow:
    points = series.metrics["perf/memory_bytes"].points() if "perf/memory_bytes" in series.metrics else []
    measured = max((value for _, value in points), default=0.0)
    text = f"{predicted / GB:.3f} GB of tensors"
    if not measured:
        return PlanRow("Memory of a rank", text, "not measured")
    if cuda:
        return PlanRow("Memory of a rank", text, f"{measured / GB:.3f} GB", f"{measured / max(1, predicted) - 1:+.0%}")
    return PlanRow("Memory of a rank", text, f"{measured / GB:.3f} GB resident, with Python's and torch's own", "")


def device_named(name: str, settings: PlanSettings) -> Device | None:
    """The device of the plan's table whose peak a GPU of this name has; a CPU, which has none."""
    if name == "cpu":
        return device_of(name, settings, sharing=1)
    peak = peak_flops(name)
    found = next((key for key, device in DEVICES.items() if device.flops == peak), None) if peak else None
    return device_of(found, settings, sharing=1) if found else None


def _median(series: RunSeries, name: str) -> float | None:
    found = series.metrics.get(name)
    values = [value for _, value in found.means()] if found is not None else []
    return statistics.median(values) if values else None
