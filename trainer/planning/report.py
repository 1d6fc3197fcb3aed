"""A plan for people, and for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from trainer.model.sizes import count, count_active, decoder_shapes
from trainer.planning.cluster import Cluster
from trainer.planning.communication import transfers
from trainer.planning.cost import DAY_S, Cost
from trainer.planning.measured import RunMeasure
from trainer.planning.memory import CONSTRUCTION, LOAD, MARGIN, Memory
from trainer.planning.scaling import ScalingPoint
from trainer.planning.search import Candidate, Ranking
from trainer.planning.time import StepTime

GB = 1e9


def of_candidate(candidate: Candidate, cluster: Cluster, cost: Cost | None) -> str:
    """Batch, memory, communication, time and cost of a layout, a part in each paragraph."""
    lines = [*_heading(candidate, cluster), "", *_memory(candidate.memory, cluster), "", *_exchange(candidate)]
    if candidate.time is not None and cost is not None:
        lines += ["", *_time(candidate.time), "", *_whole(cost, candidate)]
    else:
        lines += ["", "time       not known: give plan.flops, the peak of a device"]
    return "\n".join(lines)


def of_ranking(ranking: Ranking, cluster: Cluster, top: int) -> str:
    """The best layouts in a table, and why the first is first."""
    tried = len(ranking.fitting) + ranking.too_large + sum(ranking.refused.values())
    lines = [
        f"{tried} layouts: {len(ranking.fitting)} fit, {ranking.too_large} don't fit into "
        f"{cluster.device.memory / GB:.0f} GB, {sum(ranking.refused.values())} are refused by the checks"
    ]
    if not ranking.fitting:
        return "\n".join(
            [*lines, "no layout fits: more devices, or a smaller model, data.sequence_length or model.loss_chunk"]
        )
    rows = [("", "s/step", "MFU", "memory GB", "limited by", "layout")]
    for place, one in enumerate(ranking.fitting[:top], 1):
        time = one.time
        rows.append(
            (
                str(place),
                f"{time.total:.3g}" if time else "",
                f"{time.mfu:.1%}" if time else "",
                f"{one.memory.total / GB:.1f}",
                limit_of(time) if time else "",
                one.overrides,
            )
        )
    return "\n".join([*lines, *_table(rows), *_why(ranking), ""])


def of_scaling(points: Sequence[ScalingPoint], kind: str) -> str:
    """A table of the same run on more and more devices."""
    rows = [("devices", "sequences", "s/step", "MFU", "efficiency", "limited by", "layout")]
    rows += [
        (
            f"{point.devices:,}",
            f"{point.batch_size:,}",
            f"{point.time.total:.3g}",
            f"{point.time.mfu:.1%}",
            f"{point.efficiency:.1%}",
            limit_of(point.time),
            point.candidate.overrides,
        )
        for point in points
    ]
    return "\n".join([f"{kind} scaling: tokens/s per device, relative to the first line", *_table(rows)])


def limit_of(time: StepTime) -> str:
    """What takes the most of the step besides matrix products, with its share."""
    parts = {
        "memory traffic": time.memory,
        "optimizer": time.optimizer,
        "tensor exchange": time.tensor,
        "data exchange": time.data,
    }
    name, seconds = max(parts.items(), key=lambda item: item[1])
    return f"{name} {seconds / time.total:.0%}"


def as_json(candidate: Candidate, cluster: Cluster, cost: Cost | None) -> dict[str, Any]:
    """The plan in plain values; bytes, seconds, FLOPs."""
    layout, time = candidate.layout, candidate.time
    return {
        "overrides": candidate.overrides,
        "cluster": dataclasses.asdict(cluster),
        "parameters": count(decoder_shapes(layout.config.model)),
        "batch": {
            "sequences": layout.config.train.batch_size,
            "tokens": layout.config.train.batch_size * layout.config.data.sequence_length,
            "micro_batch": layout.micro_batch,
            "micro_steps": layout.micro_steps,
            "data_ranks": layout.data_ranks,
        },
        "memory": {**dataclasses.asdict(candidate.memory), "total": candidate.memory.total, "margin": MARGIN},
        "communication": [dataclasses.asdict(transfer) for transfer in transfers(layout)],
        "time": {**dataclasses.asdict(time), "total": time.total, "mfu": time.mfu} if time else None,
        "run": dataclasses.asdict(cost) if cost else None,
    }


def _heading(candidate: Candidate, cluster: Cluster) -> Iterable[str]:
    layout, config = candidate.layout, candidate.config
    shapes = decoder_shapes(config.model)
    parameters, active = count(shapes), count_active(shapes, config.model)
    size = f"{parameters / 1e6:,.1f}M parameters" + f" ({active / 1e6:,.1f}M active per token)" * (active < parameters)
    nodes = -(-cluster.devices // cluster.per_node)
    where = f"{cluster.devices} × {cluster.device.name}" + f" on {nodes} nodes" * (nodes > 1)
    yield f"{config.model.name}: {size}, {config.train.precision}, on {where}"
    yield f"layout     {candidate.overrides}"
    shared = "".join(
        f" × {name} {degree}"
        for name, degree in (("tensor", config.parallel.tensor), ("sequence", config.parallel.sequence))
        if degree > 1
    )
    if cluster.measured.source:
        yield f"calibrated {cluster.measured.source}"
        yield f"           {_correction(cluster.measured)}"
    tokens = config.train.batch_size * config.data.sequence_length
    yield (
        f"batch      {config.train.batch_size:,} sequences of {config.data.sequence_length:,} = {tokens:,} tokens a "
        f"step: {_counted(layout.data_ranks, 'data rank')}{shared}, {_counted(layout.micro_steps, 'micro-step')} of "
        f"{layout.micro_batch}"
    )
    if config.train.batch_ramp or config.data.length_ramp:
        yield "           the largest step, which the ramps lead up to; memory and time are its"


def _correction(measured: RunMeasure) -> str:
    memory = f", memory of tensors × {measured.memory:.3g}" if measured.libraries is None else ""
    beside = f", {measured.libraries / GB:.3g} GB beside tensors" if measured.libraries is not None else ""
    return f"predicted time × {measured.time:.3g}{memory}{beside}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _memory(memory: Memory, cluster: Cluster) -> Iterable[str]:
    share = memory.total / cluster.device.memory
    yield (
        f"memory     {memory.total / GB:.2f} GB of a device's {cluster.device.memory / GB:.1f} ({share:.0%}, ± "
        f"{MARGIN:.0%}), the most being needed at: {memory.moment}{'; it does not fit' * (share > 1)}"
    )
    parts = {**memory.parts, "device runtime": memory.runtime}
    for name, size in sorted(parts.items(), key=lambda item: -item[1]):
        if size:
            yield f"           {name:<18}{size / GB:9.3f}"
    for name, size in memory.host.items():
        yield f"           {name:<18}{size / GB:9.3f}  off the device"
    step = max(size for moment, size in memory.moments.items() if moment not in (CONSTRUCTION, LOAD))
    yield (
        f"           without the runtime: {memory.moments[CONSTRUCTION] / GB:.3g} at construction, "
        f"{memory.moments[LOAD] / GB:.3g} at load, {step / GB:.3g} in a step"
    )


def _exchange(candidate: Candidate) -> Iterable[str]:
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for transfer in transfers(candidate.layout):
        count_, size = totals.get((transfer.op, transfer.group), (0, 0))
        totals[transfer.op, transfer.group] = (count_ + transfer.count, size + transfer.total)
    if not totals or candidate.layout.world_size == 1:
        yield "exchange   none"
        return
    yield "exchange   what a rank hands in for a step, GB"
    for (op, group), (_, size) in sorted(totals.items(), key=lambda item: -item[1][1]):
        yield f"           {op:<26}among {group:<9}{size / GB:9.4f}"


def _time(time: StepTime) -> Iterable[str]:
    yield f"time       {time.total:.3g} s a step, MFU {time.mfu:.1%}"
    parts = {
        "matrix products": time.matmul,
        "memory traffic": time.memory,
        "optimizer": time.optimizer,
        "tensor exchange": time.tensor,
        "data exchange": time.data,
    }
    for name, seconds in parts.items():
        if seconds:
            yield f"           {name:<18}{seconds:9.4f}  {seconds / time.total:4.0%}"
    if time.hidden:
        yield f"           {'hidden exchange':<18}{time.hidden:9.4f}  beside backward"


def _whole(cost: Cost, candidate: Candidate) -> Iterable[str]:
    per_step = candidate.config.train.batch_size * candidate.config.data.sequence_length
    tokens = cost.tokens_per_second * cost.days * DAY_S
    yield (
        f"run        {cost.tokens_per_second:,.0f} tokens/s, {_amount(cost.tokens_per_second * DAY_S)} a day; "
        f"{_amount(tokens)} tokens ({tokens / per_step:,.0f} steps) in {_duration(cost.days)}"
    )
    figures = [f"{cost.kilowatt_hours:,.1f} kWh in the devices"] if cost.kilowatt_hours else []
    figures += [f"price {cost.price:,.2f}"] if cost.price is not None else []
    if figures:
        yield f"           {', '.join(figures)}"


def _amount(tokens: float) -> str:
    return f"{tokens / 1e9:,.1f}B" if tokens >= 1e9 else f"{tokens / 1e6:,.1f}M"


def _duration(days: float) -> str:
    if days >= 2:
        return f"{days:,.1f} days"
    return f"{days * 24:,.1f} hours" if days * 24 >= 2 else f"{days * 24 * 60:,.1f} minutes"


def _why(ranking: Ranking) -> Iterable[str]:
    """One line: what the first has over the second, or over the best of another stage."""
    first = ranking.fitting[0]
    other = next(
        (one for one in ranking.fitting if _shape(one) != _shape(first)),
        None,
    )
    if other is None or first.time is None or other.time is None:
        return
    losses = {
        name: getattr(other.time, field) - getattr(first.time, field)
        for name, field in (
            ("matrix products", "matmul"),
            ("memory traffic", "memory"),
            ("optimizer", "optimizer"),
            ("tensor exchange", "tensor"),
            ("data exchange", "data"),
        )
    }
    name, seconds = max(losses.items(), key=lambda item: item[1])
    if seconds < 1e-3 * first.time.total:
        yield f"first, as the others are no faster and need more memory; next ({_shape(other)})"
        return
    yield (
        f"first, as the best of another shape ({_shape(other)}) loses {seconds:.3g} s a step by {name} and is "
        f"{other.time.total / first.time.total - 1:.1%} slower"
    )


def _shape(candidate: Candidate) -> str:
    parallel, train = candidate.config.parallel, candidate.config.train
    return (
        f"stage {parallel.zero_stage}, tensor {parallel.tensor}, sequence {parallel.sequence}, checkpointing "
        f"{train.activation_checkpointing}"
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([*(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]])
