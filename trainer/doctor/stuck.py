"""Ranks that don't come, or don't come back from a check: named, by what the others know of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping

from trainer.doctor.board import ELSEWHERE, Board, where_it_is
from trainer.doctor.check import Finding
from trainer.errors import BanyanError, FoundError
from trainer.ranks.mesh import AbsentError

HEARD_S = 3.0  # in which every rank that lives has said where it is stuck


@contextlib.contextmanager
def ending_if_stuck(
    check: str, seconds: float, board: Board, hosts: list[str], rank: int, conclude: Callable[[list[Finding]], None]
) -> Iterator[None]:
    """Ends this process where the check isn't over after so long, since a rank waits for one that will never come.

    Rank 0 says whose doing it is by `conclude`, which raises; the others leave that to it, while it lives.
    """
    over = threading.Event()

    def watch() -> None:
        if over.wait(seconds):
            return
        board.tell(f"{check} stuck", where_it_is())
        if over.wait(HEARD_S if rank == 0 else 3 * HEARD_S):
            return
        try:
            if rank == 0:
                conclude(find_stuck(check, seconds, board, hosts))
            raise FoundError(f"doctor: {check}: rank 0 (host {hosts[0]}) gives no sign of life.")
        except BanyanError as error:
            uncaught = (type(error), error, None, threading.current_thread())
            threading.excepthook(threading.ExceptHookArgs(uncaught))
            os._exit(error.exit_code)

    threading.Thread(target=watch, name="doctor", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def find_stuck(check: str, seconds: float, board: Board, hosts: list[str]) -> list[Finding]:
    """Whose doing it is that a check isn't over: ranks that failed in it, are stuck elsewhere than in waiting for
    others, or give no sign of life."""
    problems = board.told_by_all(check)
    places = board.told_by_all(f"{check} stuck")
    found = []
    for rank, host in enumerate(hosts):
        problem, place = problems[rank], places[rank]
        who = f"rank {rank} (host {host})"
        if problem:
            found.append(Finding(f"{who}: {problem}", (host,)))
        elif problem is None and place is None:
            found.append(Finding(f"{who} gives no sign of life: look at its processes, or leave the node out", (host,)))
        elif problem is None and place is not None and place.startswith(ELSEWHERE):
            where = place.removeprefix(ELSEWHERE)
            found.append(Finding(f"{who} is stuck in {where} for {seconds:g} s, and the others wait for it", (host,)))
    if not found:
        return [
            Finding(f"it isn't over after {seconds:g} s, and all ranks wait for each other: leave it out of checks")
        ]
    return found


def find_absent(error: AbsentError, environment: Mapping[str, str]) -> Finding:
    """A finding of ranks that never came, and of the hosts that they should be on, as far as that is known."""
    here = set(error.came.values())
    per_node = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    nodes = _nodes_of_step(environment)
    hosts = tuple(dict.fromkeys(nodes[rank // per_node] for rank in error.absent if rank // per_node < len(nodes)))
    there = f" (on {', '.join(hosts)})" if hosts else ""
    return Finding(
        f"{error}{there}: look at what keeps them: their output, the node's disks, the ports between nodes",
        tuple(host for host in hosts if host not in here),
    )


def _nodes_of_step(environment: Mapping[str, str]) -> list[str]:
    """The nodes of a SLURM step, in the order in which ranks are dealt out to them; none without SLURM."""
    nodes = environment.get("SLURM_STEP_NODELIST")
    if nodes is None:
        return []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        question = ["scontrol", "show", "hostnames", nodes]
        return subprocess.run(question, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    return []
