"""Runs the checks, one after the other, on every rank; rank 0 judges what all have measured."""

from __future__ import annotations

import time
from typing import Any

from trainer.config.doctor import CHECKS as NAMES
from trainer.config.doctor import Doctor
from trainer.doctor.board import Board
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
from trainer.doctor.folder import shared_folder
from trainer.doctor.outcome import Examination, Examined
from trainer.doctor.stuck import ending_if_stuck
from trainer.errors import BanyanError, ConfigError
from trainer.machine.host import node_name
from trainer.ranks.mesh import Mesh

CHECKS: dict[str, Check] = {
    module.CHECK.name: module.CHECK
    for module in (
        *(software, gpus, limits, names, clocks, compute),
        *(network, copies, local_disk, shared_disk, services, rehearsal),
    )
}
STARTS = 4  # of a rehearsal, that of prepare among them: each may take doctor.timeout_s


def examine(config: Doctor, mesh: Mesh, examination: Examination) -> None:
    """Every check of doctor.checks, in their order; every rank calls it. Rank 0 adds the outcomes to its examination.

    Where a check doesn't end, this process does: rank 0 has concluded the examination then.
    """
    hosts = mesh.gather(node_name())
    board = Board(mesh.rank, mesh.world_size)
    with shared_folder(config, mesh) as folder:
        station = Station(mesh, config, folder, hosts[mesh.rank], board)
        for check in (CHECKS[each] for each in NAMES if each in config.doctor.checks):
            began = time.monotonic()

            def give_up(findings: list[Finding], check: str = check.name, began: float = began) -> None:
                examination.add(Examined(check, time.monotonic() - began, [], findings))
                examination.conclude(config.doctor.output)

            limit = config.doctor.timeout_s * (STARTS if check.name == rehearsal.CHECK.name else 1)
            with ending_if_stuck(check.name, limit, board, hosts, mesh.rank, give_up):
                readings = [RankReading(*each) for each in mesh.gather(_read(check, station))]
            if mesh.is_main:
                diagnosis = _judge(check, readings, station)
                seconds = time.monotonic() - began
                examination.add(Examined(check.name, seconds, diagnosis.measured, diagnosis.findings))


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
    station.board.tell(check.name, problem or "")
    return [station.mesh.rank, station.host, values, problem]


def _judge(check: Check, readings: list[RankReading], station: Station) -> Diagnosis:
    failed = [reading for reading in readings if reading.problem is not None]
    well = [reading for reading in readings if reading.problem is None]
    diagnosis = check.judge(well, station) if well and well[0].rank == 0 else Diagnosis()
    for group in by_host(failed).values():
        blamed = (group[0].host,) if len(failed) < len(readings) else ()
        diagnosis.findings.append(Finding(f"{name(group)}: {group[0].problem}", blamed))
    return diagnosis


def check_doctor(config: Doctor) -> None:
    """ConfigError for a check that there is none of."""
    for each in config.doctor.checks:
        if each not in NAMES:
            raise ConfigError(f"doctor.checks: {each} is no check; choose of {', '.join(NAMES)}.")
    if not config.doctor.checks:
        raise ConfigError("doctor.checks=[]: nothing to look at; leave it out for all.")
