"""Notices a hang: a rank that is stopped or stuck, a network that is gone, while all others wait in a collective.

The training thread says `beat` wherever it gets on; a thread of every rank writes that down (heartbeat.py). A few ranks
(READERS) read what all others wrote, when they haven't moved for health.hang_timeout_s. Where no rank has moved, or one
gives no sign of life, one of them says so in a file, and each rank that still can writes its stacks to its log, and its
process ends, which no collective can prevent.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from trainer.errors import HangError
from trainer.ranks.collectives import COLLECTIVES
from trainer.ranks.heartbeat import Heartbeat, HeartbeatFiles, Sign
from trainer.ranks.mesh import Mesh

PATIENT_PHASES = ("start", "save", "end")
"""In these, and throughout a start's first step, which may compile, only signs of life are asked for: nobody knows how
long a checkpoint takes to load or to copy. The process group's own timeout bounds them."""

HANG = "hang"  # in the run directory: what each rank was doing at the last hang
SIGN_S = 30.0  # at most, between signs of life
MAIN_SIGN_S = 2.0  # rank 0's, whose phase `banyan status` shows
WAKE_S = 1.0
LAST_RESORT_S = 60.0  # in which the process ends, whatever its ending is stuck in
NAMED = 8  # ranks that a report names at most
LONGEST_CALL = 160  # characters
READERS = 16  # ranks, far from each other, that look at all others; were all to look, work would grow as their square


@dataclass(frozen=True)
class Beat:
    """Where the training thread was at `time` (monotonic). `count` numbers the beats of a step."""

    time: float
    step: int = 0
    phase: str = PATIENT_PHASES[0]
    count: int = 0
    patient: bool = True


class Watchdog:
    """One rank's watch over the run. As a context manager it ends with the verb; `timeout_s` 0 turns it off."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._sign_s = min(timeout_s / 4, SIGN_S)
        self._beat = Beat(time.monotonic())
        self._excused = 0.0
        self._first_step: int | None = None
        self._ended = threading.Event()

    def beat(self, phase: str, step: int | None = None) -> None:
        """Says that the training thread begins `phase` of `step`, by default the same step as before."""
        last = self._beat
        step = last.step if step is None else step
        if self._first_step is None and phase not in PATIENT_PHASES:
            self._first_step = step
        patient = phase in PATIENT_PHASES or step == self._first_step
        self._beat = Beat(time.monotonic(), step, phase, last.count + 1 if step == last.step else 0, patient)

    def start(self, run_dir: Path, mesh: Mesh, log: int | None) -> None:
        """Begins to watch; every rank calls it, with the descriptor of its log if it keeps one."""
        if self._timeout_s == 0:
            return
        self._rank, self._world_size = mesh.rank, mesh.world_size
        if mesh.is_main:
            self._sign_s = min(self._sign_s, MAIN_SIGN_S)
        self._is_reader = is_reader(mesh.rank, mesh.world_size)
        self._logs = run_dir / "logs"
        self._files = HeartbeatFiles(run_dir, mesh.rank, mesh.world_size)
        mesh.main_finds(self._files.clear)
        self._log = os.open(os.devnull, os.O_WRONLY) if log is None else os.dup(log)
        self._sign()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        woke = self._signed = time.monotonic()
        was_idle = False
        while not self._ended.wait(min(self._sign_s, WAKE_S)):
            now = time.monotonic()
            if now - woke > self._timeout_s / 2:
                self._excused = now  # this process was stopped itself; others may have been, too
            woke = now
            is_idle = self._idle_s() >= self._timeout_s
            due = self._sign_if_due()
            if (due or is_idle > was_idle) and (report := self._find_hang(is_idle=is_idle)):
                self._end(report)
            was_idle = is_idle

    def _sign_if_due(self) -> bool:
        """Gives a sign of life unless the last one is young enough; whether it did."""
        now = time.monotonic()
        if now - self._signed < self._sign_s:
            return False
        self._signed = now
        self._sign()
        return True

    def _sign(self, *, hung: bool = False) -> None:
        """Gives a sign of life. Should this thread not come by again, since another one keeps Python's lock, a thread
        of faulthandler's, which needs none, writes the stacks."""
        beat, call = self._beat, COLLECTIVES.last
        self._files.write(
            Heartbeat(
                rank=self._rank,
                host=platform.node(),
                pid=os.getpid(),
                step=beat.step,
                phase=beat.phase,
                beats=beat.count,
                patient=beat.patient,
                idle_s=self._idle_s(),
                hung=hung,
                call=call.in_words()[:LONGEST_CALL] if call.number else "",
                waits=call.waiting,
            )
        )
        if not hung:
            faulthandler.dump_traceback_later(self._timeout_s, file=self._log)

    def _idle_s(self) -> float:
        return time.monotonic() - max(self._beat.time, self._excused)

    def _find_hang(self, *, is_idle: bool) -> str | None:
        """The report of a hang that another rank has noticed, or a reader does, which looks only while it is idle."""
        report = self._files.announced()
        if report or not is_idle or not self._is_reader:
            return report
        try:
            found = judge(self._files.read(between=self._sign_if_due), self._timeout_s)
        except OSError:
            return None
        if found is None:
            return None
        stacks = self._logs.parent / HANG
        return f"{found}; stacks are in {stacks}. The same command goes on from the newest checkpoint."

    def _end(self, report: str) -> None:
        """Writes the stacks, waits until the other ranks that live have done so, tells why, ends the process."""
        faulthandler.dump_traceback_later(LAST_RESORT_S, exit=True, file=self._log)
        report = self._files.announce(report)
        moment = time.strftime("%Y-%m-%d %H:%M:%S,000")
        os.write(self._log, f"{moment} ERROR banyan.watchdog: {report}\nThis rank: {self._beat}\n".encode())
        faulthandler.dump_traceback(file=self._log, all_threads=True)
        leave_stacks(self._logs.parent / HANG, self._rank, report)
        self._sign(hung=True)
        self._wait_for_stacks()
        uncaught = (HangError, HangError(report), None, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(uncaught))
        os._exit(HangError.exit_code)

    def _wait_for_stacks(self) -> None:
        """Returns once every rank that lives has written its stacks; the first to end has the launcher end all.

        Readers look; others wait as long as a rank may take to hear of a hang.
        """
        deadline = time.monotonic() + self._sign_s + WAKE_S
        if not self._is_reader:
            time.sleep(max(0.0, deadline - time.monotonic()))
        for rank in range(self._world_size):
            while time.monotonic() < deadline and self._is_awaited(rank):
                time.sleep(WAKE_S / 10)

    def _is_awaited(self, rank: int) -> bool:
        try:
            sign = self._files.read_rank(rank)
        except OSError:
            return False
        return not is_silent(sign, self._timeout_s) and sign.heartbeat is not None and not sign.heartbeat.hung


def leave_stacks(folder: Path, rank: int, report: str) -> None:
    """Leaves in a folder of all ranks what this one was doing: stacks, and torch's record of the last collectives."""
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        with (folder / f"rank-{rank:05d}.txt").open("w", encoding="utf-8") as file:
            call = COLLECTIVES.last
            state = "in" if call.waiting else "in no collective; the last was"
            file.write(f"{report}\nrank {rank} {state} {call.in_words() if call.number else 'none'}\n\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
    for backend in ("nccl", "fr"):  # torch's flight recorder, under its names
        record = getattr(torch._C._distributed_c10d, f"_dump_{backend}_trace_json", None)
        if record is not None:
            with contextlib.suppress(OSError, RuntimeError, TypeError):
                content = record()
                content = content if isinstance(content, bytes) else content.encode()
                (folder / f"{backend}-{rank:05d}.json").write_bytes(content)


def is_reader(rank: int, world_size: int) -> bool:
    """Whether a rank is one of at most READERS that look at all others: evenly spread, so that some outlive a node."""
    return rank % -(-world_size // READERS) == 0


def is_silent(sign: Sign, timeout_s: float) -> bool:
    """Whether a rank gives no sign of life; one that does gives it every quarter of the timeout, at least."""
    return sign.age_s > timeout_s / 2


def judge(signs: list[Sign], timeout_s: float) -> str | None:
    """Whether a run hangs of which a rank hasn't moved for `timeout_s`, and who is to blame, in a line; or None."""
    step = max(sign.heartbeat.step for sign in signs if sign.heartbeat)
    begin = f"no progress for {timeout_s:g} s at step {step}: "
    silent = [sign for sign in signs if is_silent(sign, timeout_s)]
    if silent:
        others = in_collectives([sign for sign in signs if sign not in silent])
        return f"{begin}{_name(silent)} {'gives' if len(silent) == 1 else 'give'} no sign of life{others}"
    beats = [sign.heartbeat for sign in signs if sign.heartbeat]
    differing = in_collectives(signs)
    if any(beat.patient for beat in beats) or min(sign.idle_s for sign in signs) < timeout_s:
        return None
    least = min((beat.step, beat.beats) for beat in beats)
    behind = [sign for sign, beat in zip(signs, beats, strict=True) if (beat.step, beat.beats) == least]
    phase = next(beat.phase for beat in beats if (beat.step, beat.beats) == least)
    if len(behind) < len(signs):
        return f'{begin}the others wait for {_name(behind)}, in phase "{phase}" of step {least[0]}{differing}'
    whose = "the process is" if len(signs) == 1 else "all ranks live, each of them"
    return f'{begin}{whose} in phase "{phase}"{differing}'


def in_collectives(signs: list[Sign]) -> str:
    """ "; ranks 0 and 2 wait in all_reduce number 41 …; rank 1 in none, its last was …": by collective, or nothing."""
    where: dict[tuple[bool, str], list[int]] = {}
    for sign in signs:
        if sign.heartbeat is not None and sign.heartbeat.call:
            where.setdefault((not sign.heartbeat.waits, sign.heartbeat.call), []).append(sign.rank)
    words = []
    for (elsewhere, call), ranks in sorted(where.items())[:NAMED]:
        who = f"rank{'s' * (len(ranks) > 1)} {_numbers(ranks)}"
        if elsewhere:
            words.append(f"; {who} in no collective, the last was {call}")
        else:
            words.append(f"; {who} wait{'s' * (len(ranks) == 1)} in {call}")
    return "".join(words)


def _numbers(ranks: list[int]) -> str:
    """0, 1, 2 and 5 more"""
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    return ", ".join(map(str, ranks[:NAMED])) + more


def _name(signs: list[Sign]) -> str:
    """rank 3 (host n2, pid 4242), rank 5 (…) and 2 more."""
    names = [
        f"rank {sign.rank} (host {sign.heartbeat.host}, pid {sign.heartbeat.pid})"
        if sign.heartbeat
        else f"rank {sign.rank} (never heard of)"
        for sign in signs[:NAMED]
    ]
    more = f" and {len(signs) - NAMED} more" if len(signs) > NAMED else ""
    return ", ".join(names) + more
