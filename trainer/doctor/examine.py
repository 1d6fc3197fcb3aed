"""Runs the checks, one after the other, on every rank; rank 0 judges what all have measured."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.config.doctor import CHECKS as NAMES
from trainer.config.doctor import Doctor
from trainer.doctor.check import Check, Diagnosis, Finding, RankReading, Station, by_host, name
from trainer.doctor.checks import (
    clocks,
    compute,
    copies,
    gpus,
    limits,
    local_disk,
    names,
    network,
    rehearsal,
    services,
    shared_disk,
    software,
)
from trainer.errors import BanyanError, ConfigError, InputError
from trainer.ranks.mesh import Mesh

CHECKS: dict[str, Check] = {
    module.CHECK.name: module.CHECK
    for module in (
        *(
            software,
            gpus,
            limits,
            names,
            clocks,
            compute,
            network,
            copies,
            local_disk,
            shared_disk,
            services,
            rehearsal,
        ),
    )
}
LONGEST_CHECK_S = 120.0  # but for a rehearsal's three starts


@dataclass(frozen=True)
class Examined:
    """One check's outcome."""

    name: str
    seconds: float
    measured: list[str]
    findings: list[Finding]


def examine(config: Doctor, mesh: Mesh, show: Callable[[Examined], None]) -> list[Examined]:
    """Every check of doctor.checks, in their order; every rank calls it. Rank 0 gets the outcomes, and `show` each."""
    host = host_name()
    outcomes = []
    with shared_folder(config, mesh) as folder:
        station = Station(mesh, config, folder, host)
        for check in (CHECKS[each] for each in NAMES if each in config.doctor.checks):
            began = time.monotonic()
            limit = 3 * config.doctor.timeout_s + LONGEST_CHECK_S
            with ending_if_stuck(check.name, limit if check.name == rehearsal.CHECK.name else LONGEST_CHECK_S):
                readings = [RankReading(*each) for each in mesh.gather(_read(check, station))]
            if mesh.is_main:
                diagnosis = _judge(check, readings, station)
                outcomes.append(Examined(check.name, time.monotonic() - began, diagnosis.measured, diagnosis.findings))
                show(outcomes[-1])
    return outcomes


def _read(check: Check, station: Station) -> list[Any]:
    """This rank's reading, as a list; what stops one rank must not stop the others."""
    values: dict[str, Any] = {}
    problem = None
    try:
        values = check.measure(station)
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if isinstance(error, BanyanError):
            problem = str(error)
    return [station.mesh.rank, station.host, values, problem]


def _judge(check: Check, readings: list[RankReading], station: Station) -> Diagnosis:
    failed = [reading for reading in readings if reading.problem is not None]
    well = [reading for reading in readings if reading.problem is None]
    diagnosis = check.judge(well, station) if well and well[0].rank == 0 else Diagnosis()
    for group in by_host(failed).values():
        blamed = (group[0].host,) if len(failed) < len(readings) else ()
        diagnosis.findings.append(Finding(f"{name(group)}: {group[0].problem}", blamed))
    return diagnosis


def host_name() -> str:
    """The name by which the scheduler knows this node."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def bad_hosts(outcomes: list[Examined]) -> list[str]:
    """Hosts that a finding blames, for an --exclude list."""
    return list(dict.fromkeys(host for each in outcomes for finding in each.findings for host in finding.hosts))


def examination_json(outcomes: list[Examined], mesh: Mesh, hosts: int) -> dict[str, Any]:
    """What doctor.output gets."""
    found = [finding for each in outcomes for finding in each.findings]
    return {
        "version": 1,
        "time": round(time.time(), 3),
        "well": not found,
        "ranks": mesh.world_size,
        "hosts": hosts,
        "device": mesh.device.type,
        "exclude": bad_hosts(outcomes),
        "checks": [asdict(each) for each in outcomes],
    }


@contextlib.contextmanager
def shared_folder(config: Doctor, mesh: Mesh) -> Iterator[Path]:
    """A new folder on the shared disk, removed at the end."""
    parent = Path(config.doctor.folder or "runs").expanduser().absolute()
    folder = Path(mesh.from_main(str(parent / f"doctor-{uuid.uuid4().hex[:12]}")))

    def make() -> None:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"doctor.folder={parent}: {error.strerror}; give a folder on the shared disk.") from error

    mesh.main_finds(make)
    try:
        yield folder
    finally:
        if mesh.is_main:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ending_if_stuck(check: str, seconds: float) -> Iterator[None]:
    """Ends this process, saying in which check, where a rank waits for one that will never come."""

    def end() -> None:
        print(
            f"banyan: doctor: the check {check} didn't end within {seconds:g} s on {host_name()}, rank "
            f"{os.environ.get('RANK', '0')}: leave that out with doctor.checks, or look at the rank that it waits for",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_doctor(config: Doctor) -> None:
    """ConfigError for a check that there is none of."""
    for each in config.doctor.checks:
        if each not in NAMES:
            raise ConfigError(f"doctor.checks: {each} is no check; choose of {', '.join(NAMES)}.")
    if not config.doctor.checks:
        raise ConfigError("doctor.checks=[]: nothing to look at; leave it out for all.")
