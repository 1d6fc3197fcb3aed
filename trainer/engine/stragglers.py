"""health.timing_every: names the rank that is slower than the others, and data that are waited for; nobody waits.

Every so many steps the ranks sum up a small table on the gloo group, of which each fills its row, and read it when it
is due again. A rank is slow whose quickest step has more own work (step_times.py) than the median rank's usual step, by
a margin: on a busy machine usual steps are longer, and less is told. It is named when it was slow twice in a row.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed

from trainer.engine.hooks import Hook
from trainer.engine.step_times import EXCHANGE, SECTIONS, STEP, StepTimes
from trainer.ranks.mesh import Mesh

SLOW = 1.1  # times the median: a rank that is 20 % slower is to be found for certain
LEAST_S = 0.0005  # a step, by which it must be slower as well
DATA_SHARE = 0.2  # of a step, from which on data are waited for
BURST = 3  # comparisons over which data are judged
TWICE = 2  # times in a row
COLUMNS = (*SECTIONS, EXCHANGE, STEP, "quickest", "usual", "source")
NAMED = 4  # ranks that a line names at most


class Stragglers(Hook):
    """Compares the ranks every `every` steps. `sources` gives the seconds that each dataset has been read for."""

    def __init__(
        self,
        mesh: Mesh,
        every: int,
        times: StepTimes,
        sources: Callable[[], Mapping[str, float]],
        say: Callable[[str], None],
    ) -> None:
        self._mesh, self._every, self._times, self._sources, self._say = mesh, every, times, sources, say
        place = f"{platform.node()}, {device_in_words(mesh)}"
        self._places: list[str] = mesh.gather(place)
        self._pending: tuple[torch.Tensor, Any, int] | None = None
        self._read: dict[str, float] = {}
        self._slow: dict[int, int] = {}
        self._named: set[int] = set()
        self._waits: list[tuple[float, float]] = []
        self._is_waiting = False
        self._warm = False
        self._metrics: dict[str, float] = {}

    def after_step(self, step: int) -> None:
        """Sends this rank's row and reads the table that was sent before, when they are due."""
        self._times.end_step()
        if step % self._every:
            return
        if self._pending is not None:
            table, work, last = self._pending
            if work is not None:
                work.wait()  # every rank sent its row `every` steps ago
            self._judge(table, last)
            self._pending = None
        steps = self._times.take()
        if not self._warm:  # the first steps compile, and allocate
            self._warm = True
            self._read = dict(self._sources())
            return
        if not steps:
            return self._send([0.0] * len(COLUMNS), step)
        row = {name: statistics.median_low(each[name] for each in steps) for name in (*SECTIONS, EXCHANGE)}
        row |= {name: statistics.fmean(each[name] for each in steps) for name in ("data", STEP)}  # read by the group
        own = [sum(each[name] for name in SECTIONS) for each in steps]
        row |= {"quickest": min(own), "usual": statistics.median_low(own), "source": self._slowest_source()}
        return self._send([row[name] for name in COLUMNS], step)

    def _slowest_source(self) -> float:
        """Number of the dataset that was read for the longest since the last time."""
        now = dict(self._sources())
        spent = [seconds - self._read.get(name, 0.0) for name, seconds in now.items()]
        if not any(spent):  # they were read ahead
            spent = [*now.values()]
        self._read = now
        return float(max(range(len(spent)), key=spent.__getitem__, default=0))

    def _send(self, row: list[float], step: int) -> None:
        table = torch.zeros(self._mesh.world_size, len(COLUMNS), dtype=torch.float64)
        table[self._mesh.rank] = torch.tensor(row, dtype=torch.float64)
        work = None
        if self._mesh.world_size > 1:
            work = torch.distributed.all_reduce(table, group=self._mesh.control, async_op=True)
        self._pending = (table, work, step)

    def end(self) -> None:
        """Waits for what is under way; every rank is here."""
        if self._pending is not None and self._pending[1] is not None:
            self._pending[1].wait()
        self._pending = None

    def metrics(self) -> dict[str, float]:
        """Of the last comparison."""
        return dict(self._metrics)

    def _judge(self, table: torch.Tensor, step: int) -> None:
        if not self._mesh.is_main:
            return
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in table.tolist()]
        own = [row["quickest"] for row in rows]
        median = statistics.median_low(row["usual"] for row in rows)
        worst = max(range(len(own)), key=own.__getitem__)
        waited = max(rows, key=lambda row: row["data"])
        data_share = self._name_source(waited, step)
        self._metrics = {
            "health/slowest_rank": worst,
            "health/slowest_ratio": own[worst] / median if median else 1.0,
            "health/own_seconds": median,
            "health/exchange_seconds": statistics.median_low(row[EXCHANGE] for row in rows),
            "health/data_share": data_share,
        }
        self._name_slow(own, median, rows, step)

    def _name_slow(self, own: list[float], median: float, rows: list[dict[str, float]], step: int) -> None:
        for rank, seconds in enumerate(own):
            slow = seconds > SLOW * median and seconds > median + LEAST_S
            self._slow[rank] = self._slow.get(rank, 0) + 1 if slow else 0
        named = {rank for rank, times in self._slow.items() if times >= TWICE}
        self._metrics["health/stragglers"] = len(named)
        for rank in sorted(named - self._named)[:NAMED]:
            usual = {name: statistics.median_low(row[name] for row in rows) for name in SECTIONS}
            where = max(SECTIONS, key=lambda name: rows[rank][name] - usual[name])
            self._say(
                f"step {step}: rank {rank} ({self._places[rank]}) is slow: {1e3 * own[rank]:.1f} ms of its own work a "
                f"step, {own[rank] / median - 1:.0%} more than the median rank has, mostly in {where} "
                f"({1e3 * rows[rank][where]:.1f} ms, where others take {1e3 * usual[where]:.1f})"
            )
        for rank in sorted(self._named - named)[:NAMED]:
            self._say(f"step {step}: rank {rank} ({self._places[rank]}) is as fast as the others again")
        self._named = named

    def _name_source(self, row: dict[str, float], step: int) -> float:
        """The share of the last windows' steps in which data were waited for: they are read by the group, in bursts."""
        self._waits = [*self._waits[1 - BURST :], (row["data"], row[STEP])]
        waited, total = map(sum, zip(*self._waits, strict=True))
        share = waited / total if total else 0.0
        waits = len(self._waits) >= TWICE and share > DATA_SHARE and waited > LEAST_S * len(self._waits)
        if waits and not self._is_waiting:
            name = [*self._sources()][int(row["source"])]
            self._say(
                f"step {step}: data are slow: {1e3 * waited / len(self._waits):.1f} ms of a step's "
                f"{1e3 * total / len(self._waits):.1f} are waited for them, mostly for {name}; raise data.prefetch, or "
                "look at the disk that it is on"
            )
        self._is_waiting = waits
        return share


def device_in_words(mesh: Mesh) -> str:
    """GPU 3, NVIDIA H100; or cpu."""
    if mesh.device.type != "cuda":
        return mesh.device.type
    return f"GPU {mesh.local_rank}, {torch.cuda.get_device_name(mesh.device)}"
