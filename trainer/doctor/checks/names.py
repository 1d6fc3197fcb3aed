"""Names and ports: whether hosts find each other by name, and may talk to each other at any port."""

from __future__ import annotations

import socket
from typing import Any

from trainer.doctor.check import Check, Diagnosis, Finding, RankReading, Station, by_host, hosts_of, name

ASKED = 16  # other hosts that a host looks for at most: the next ones by rank
SLOW_S = 1.0
WAIT_S = 5.0


def measure(station: Station) -> dict[str, Any]:
    """Seconds in which this host's own name is found; which hosts after it can't be found by name, or not be reached.

    Names that don't resolve are no fault by themselves: ranks meet at MASTER_ADDR.
    """
    import time

    own = socket.gethostname()
    began = time.monotonic()
    try:
        socket.getaddrinfo(own, None)
        unknown = False
    except OSError:
        unknown = True
    seconds = time.monotonic() - began
    address = _address_towards(station)
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen(64)
        listener.settimeout(WAIT_S)
        ports = station.mesh.gather([address, listener.getsockname()[1], station.host, station.is_first_of_host])
        others = [each for each in _after(ports, station.mesh.rank) if each[3] and each[2] != station.host]
        unreachable = []
        if station.is_first_of_host:
            for host_address, port, host, _ in others[:ASKED]:
                try:
                    socket.create_connection((host_address, port), timeout=WAIT_S).close()
                except OSError as error:
                    unreachable.append([host, f"{host_address}:{port}", str(error)])
        station.mesh.barrier()  # listeners stay until all have called
    return {
        "own": own,
        "unknown": unknown,
        "seconds": seconds,
        "unreachable": unreachable,
        "asked": len(others[:ASKED]),
    }


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """Whose own name isn't found or only slowly, and who can't be reached by whom."""
    diagnosis = Diagnosis()
    slowest = max(reading.values["seconds"] for reading in readings)
    asked = sum(reading.values["asked"] for reading in readings)
    diagnosis.measured.append(f"own name found in {slowest * 1e3:.1f} ms at most; {asked:,} ways between hosts tried")
    groups = [group[0] for group in by_host(readings).values()]
    if unknown := [each for each in groups if each.values["unknown"]]:
        text = f"{name(unknown)}: its own name isn't found: mend /etc/hosts or the DNS"
        diagnosis.findings.append(Finding(text, hosts_of(unknown)))
    if slow := [each for each in groups if each.values["seconds"] > SLOW_S]:
        text = f"{name(slow)}: names are found only after {slowest:.1f} s: look at /etc/resolv.conf"
        diagnosis.findings.append(Finding(text, hosts_of(slow)))
    refused: dict[str, list[str]] = {}
    for reading in readings:
        for host, address, error in reading.values["unreachable"]:
            refused.setdefault(host, []).append(f"{reading.host} can't reach {address} ({error})")
    for host, lines in refused.items():
        text = f"{host}: {'; '.join(lines[:2])}: open the ports between nodes to each other"
        diagnosis.findings.append(Finding(text, (host,)))
    return diagnosis


def _after(everyone: list[Any], rank: int) -> list[Any]:
    return everyone[rank + 1 :] + everyone[:rank]


def _address_towards(station: Station) -> str:
    """This host's address on the network by which it reaches rank 0."""
    import os

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((os.environ["MASTER_ADDR"], 9))
            return str(probe.getsockname()[0])
        except (OSError, KeyError):
            return "127.0.0.1"


CHECK = Check("names", measure, judge)
