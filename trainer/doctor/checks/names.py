"""Names and ports: whether hosts find each other by name, and may talk to each other at any port."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from trainer.doctor.check import Check, Diagnosis, Finding, RankReading, Station, one_of_each_host
from trainer.ranks.rendezvous import address_towards

ASKED = 16  # other hosts that a host looks for at most: the next ones by rank
SLOW_S = 1.0
WAIT_S = 5.0


def measure(station: Station) -> dict[str, Any]:
    """Seconds in which this host's own name is found; which hosts after it can't be found by name, or not be reached.

    Names that don't resolve are no fault by themselves: ranks meet at MASTER_ADDR.
    """
    own = socket.gethostname()
    began = time.monotonic()
    try:
        socket.getaddrinfo(own, None)
        unknown = False
    except OSError:
        unknown = True
    seconds = time.monotonic() - began
    address = address_towards(os.environ.get("MASTER_ADDR", "127.0.0.1")) or "127.0.0.1"
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, 0))
        listener.listen(64)
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
    asked = len(others[:ASKED]) if station.is_first_of_host else 0
    return {"own": own, "unknown": unknown, "seconds": seconds, "unreachable": unreachable, "asked": asked}


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """Whose own name isn't found or only slowly, and who can't be reached by whom."""
    diagnosis = Diagnosis()
    slowest = max(reading.values["seconds"] for reading in readings)
    asked = sum(reading.values["asked"] for reading in readings)
    diagnosis.measured.append(
        f"own name found in {slowest * 1e3:.1f} ms at most (limit {SLOW_S * 1e3:,.0f}); {asked:,} ways between hosts "
        "tried"
    )
    hosts = one_of_each_host(readings)
    unknown = [each for each in hosts if each.values["unknown"]]
    diagnosis.blame(unknown, "its own name isn't found: mend /etc/hosts or the DNS")
    slow = [each for each in hosts if each.values["seconds"] > SLOW_S]
    diagnosis.blame(slow, f"names are found only after {slowest:.1f} s: look at /etc/resolv.conf")
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


CHECK = Check("names", measure, judge)
