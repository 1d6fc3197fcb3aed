"""Joules of a run, over all ranks and starts: measured by counters of GPUs and processors, or called an estimate."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed

from trainer.checkpoint.reader import CheckpointReader
from trainer.config.energy import Energy
from trainer.engine.hooks import Hook
from trainer.engine.loop import Progress
from trainer.machine.durable import write_json
from trainer.machine.energy import CPU, GPU, open_nvml, open_rapl
from trainer.ranks.mesh import Mesh
from trainer.track.energy import FILE, EnergyAccount, emissions_kg, read_account

WRITE_S = 10.0  # between writes of the account, which wait for the disk


class Meter(Protocol):
    """A counter of joules."""

    kind: str

    def joules(self) -> float:
        """The counter; only differences mean something."""


class EnergyUse(Hook):
    """Counts from the first step of a start on. One sum over ranks for each logged row, as small as can be."""

    def __init__(
        self, settings: Energy, meters: list[Meter], mesh: Mesh, progress: Progress, run_dir: Path, *, estimates: bool
    ) -> None:
        self._settings = settings
        self._meters = meters
        self._mesh = mesh
        self._progress = progress
        self._path = run_dir / FILE
        self._estimates = estimates
        self._account = EnergyAccount()

    def begin(self, reader: CheckpointReader | None) -> None:
        """Rank 0 takes up the account of earlier starts, whatever the checkpoint says: what is used stays used."""
        if self._mesh.is_main:
            self._account = read_account(self._path) or EnergyAccount()
        self._time, self._tokens = time.monotonic(), self._progress.tokens
        self._written = self._time
        self._joules = [meter.joules() for meter in self._meters]

    def metrics(self) -> dict[str, float]:
        """Since the last row: joules per trained token and mean power of all that is counted; kWh of the whole run."""
        now, used = time.monotonic(), [meter.joules() for meter in self._meters]
        seconds, joules = now - self._time, sum(used) - sum(self._joules)
        if self._estimates:
            joules += float(self._settings.device_watts or 0) * seconds
        tokens = self._progress.tokens - self._tokens
        self._time, self._joules, self._tokens = now, used, self._progress.tokens
        kinds = [meter.kind for meter in self._meters]
        total = torch.tensor([joules, kinds.count(GPU), kinds.count(CPU)], dtype=torch.float64)
        if self._mesh.world_size > 1:
            torch.distributed.all_reduce(total, group=self._mesh.control)
        if not self._mesh.is_main:
            return {}
        joules, gpus, hosts = total.tolist()
        account = self._account
        account.joules += joules
        account.seconds += seconds
        account.tokens += max(0, tokens)  # fewer after a rewind
        account.gpus, account.hosts, account.ranks = int(gpus), int(hosts), self._mesh.world_size
        account.estimated |= self._estimates
        if now - self._written > WRITE_S:
            self._write()
        name = "energy/estimated_" if account.estimated else "energy/"
        found = {f"{name}kwh": account.kwh(), f"{name}watts": joules / max(seconds, 1e-9)}
        if tokens > 0:
            found[f"{name}joules_per_token"] = joules / tokens
        emitted = emissions_kg(account, self._settings)
        if emitted is not None:
            found[f"{name}co2e_kg"] = emitted
        return found

    def end(self) -> None:
        """Rank 0 writes the account."""
        if self._mesh.is_main:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        write_json(self._path, asdict(self._account), sync_folder=False)


def open_energy_use(settings: Energy, mesh: Mesh, progress: Progress, run_dir: Path) -> EnergyUse | None:
    """The hook; None where nothing can be counted and nothing was given to estimate from. Every rank calls it.

    Either all ranks' devices have counters or none is read: a sum over some of them would be no one's energy.
    """
    meters: list[Meter] = []
    cuda = mesh.device.type == "cuda"
    if settings.measure and cuda:
        meter = open_nvml(f"GPU-{torch.cuda.get_device_properties(mesh.device).uuid}")
        meters += [meter] if meter else []
    if settings.measure and mesh.local_rank == 0:
        processors = open_rapl()
        meters += [processors] if processors else []
    first = mesh.local_rank == 0
    mine = [any(each.kind == GPU for each in meters), any(each.kind == CPU for each in meters), first, True]
    found = torch.tensor(mine, dtype=torch.float64)
    if mesh.world_size > 1:
        torch.distributed.all_reduce(found, group=mesh.control)
    gpus, processors_of, hosts, ranks = found.tolist()
    kinds = {GPU} if gpus == ranks else set()
    kinds |= {CPU} if processors_of == hosts else set()
    counted = kinds >= ({GPU} if cuda else {CPU})
    estimates = not counted and settings.device_watts is not None
    if not counted and not estimates:
        return None
    kept = [meter for meter in meters if meter.kind in kinds and counted]
    return EnergyUse(settings, kept, mesh, progress, run_dir, estimates=estimates)
