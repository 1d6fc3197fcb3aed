"""train.profile=[FIRST,LAST]: traces of those steps by torch's profiler, in RUN/profile/steps-FIRST-LAST.

rank-00000.trace.json.gz    for Perfetto and HTA
rank-00000.memory.pickle    allocations while they ran, on a GPU, for pytorch.org/memory_viz
rank-00000.operators.json   the dearest operators

What is learnt is the same with and without, bit for bit; a run without it builds no hook.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from trainer.checkpoint.reader import CheckpointReader
from trainer.config.training import Train
from trainer.engine.hooks import Hook
from trainer.engine.profile_files import MOST_OPERATORS, PROFILE, Operator, Operators
from trainer.errors import StorageError
from trainer.machine.durable import make_folder, problem_of, write_json
from trainer.ranks.mesh import Mesh

MOST_ALLOCATIONS = 200_000  # that a snapshot of memory remembers


def is_profiled(train: Train, rank: int) -> bool:
    """Whether a rank of this run is profiled."""
    return bool(train.profile) and (not train.profile_ranks or rank in train.profile_ranks)


class StepProfile(Hook):
    """Profiles the steps of train.profile that are still to come, on this rank."""

    off_clock = True  # a trace may take seconds to write

    def __init__(self, train: Train, mesh: Mesh, run_dir: Path) -> None:
        self._first, self._last = train.profile
        self._rank = mesh.rank
        self._cuda = mesh.device.type == "cuda"
        self._folder = run_dir / PROFILE / f"steps-{self._first}-{self._last}"
        self._profiler: Any = None
        self._begun = self._step = 0

    def begin(self, reader: CheckpointReader | None) -> None:
        """Starts before the run's next step, if that is one of those."""
        self._start_before(1 + (int(reader.state["step"]) if reader is not None else 0))

    def after_step(self, step: int) -> None:
        """Starts before the first of those steps; ends, and writes, after the last."""
        self._step = step
        if self._profiler is None:
            self._start_before(step + 1)
        elif step >= self._last:
            self._finish()

    def end(self) -> None:
        """Writes what there is of a run that ends, or leaves, before the last of those steps."""
        if self._profiler is not None:
            self._finish()

    def _start_before(self, step: int) -> None:
        if not self._first <= step <= self._last:
            return
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
        if self._cuda:
            torch.cuda.memory._record_memory_history(max_entries=MOST_ALLOCATIONS)
        self._begun = step
        self._profiler = torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True)
        self._profiler.start()

    def _finish(self) -> None:
        """Ends the profile and writes it; a disk that refuses ends no run."""
        if self._cuda:
            torch.cuda.synchronize()
        self._profiler.stop()
        problem = problem_of(self._write)
        if problem is not None:
            print(f"banyan: {self._folder}: no profile of rank {self._rank} ({problem})", flush=True)
        if self._cuda:
            torch.cuda.memory._record_memory_history(enabled=None)
        self._profiler = None
        self._last = 0  # it is over

    def _write(self) -> None:
        make_folder(self._folder)
        name = f"rank-{self._rank:05d}"
        if not self._folder.resolve().is_relative_to(self._folder.parents[1].resolve()):
            raise StorageError(f"{self._folder}: a link leads out of the run directory; remove it.")
        self._profiler.export_chrome_trace(str(self._folder / f"{name}.trace.json.gz"))
        if self._cuda:
            with contextlib.suppress(RuntimeError):
                torch.cuda.memory._dump_snapshot(str(self._folder / f"{name}.memory.pickle"))
        table = Operators(self._rank, f"{self._begun}-{self._step}", "GPU" if self._cuda else "CPU", self._operators())
        write_json(self._folder / f"{name}.operators.json", dataclasses.asdict(table))

    def _operators(self) -> list[Operator]:
        found = [
            Operator(
                name=str(event.key)[:200],
                calls=int(event.count),
                self_cpu_us=float(event.self_cpu_time_total),
                cpu_us=float(event.cpu_time_total),
                self_device_us=float(getattr(event, "self_device_time_total", 0.0)),
                self_memory=float(event.self_device_memory_usage if self._cuda else event.self_cpu_memory_usage),
            )
            for event in self._profiler.key_averages()
        ]
        found.sort(key=lambda each: -(each.self_device_us if self._cuda else each.self_cpu_us))
        return found[:MOST_OPERATORS]
