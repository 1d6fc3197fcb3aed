"""Signals that end a process: by an exception, so that locks and children are let go; within seconds in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

GRACE_S = 5.0
"""How long the main thread may take to end once it was interrupted: in a library it may be stuck for half an hour."""

_wakeup: socket.socket | None = None  # the end that the kernel's notes of signals are read from

_cleaning = False


class Interrupted(KeyboardInterrupt):
    """A signal has come that ends this process. Whoever catches exceptions leaves it alone, as Ctrl-C."""

    def __init__(self, number: int, detail: str = "") -> None:
        name = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        super().__init__(f"{name}{detail}")
        self.exit_code = 128 + number  # what a shell gives a process that the signal killed


class Raise:
    """A signal handler that raises Interrupted, in the main thread; `detail` ends its message."""

    def __init__(self, detail: str = "") -> None:
        self._detail = detail

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called by the interpreter."""
        if not _cleaning:
            raise self.error(number)

    def error(self, number: int) -> Interrupted:
        """What it raises for `number`."""
        return Interrupted(number, self._detail)


@contextlib.contextmanager
def cleaning() -> Iterator[None]:
    """While something is put in order on the way out: a second signal doesn't end that, too. For moments."""
    global _cleaning
    _cleaning = True
    try:
        yield
    finally:
        _cleaning = False


@contextlib.contextmanager
def interruptible(numbers: Iterable[int]) -> Iterator[None]:
    """Where signals raise Interrupted; one that the process was started to ignore, as by nohup, stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a guest in another program, whose signals are its own
        return
    heard = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    former: dict[int, Any] = {number: signal.signal(number, Raise()) for number in heard}
    try:
        yield
    finally:
        for number, handler in former.items():
            if isinstance(signal.getsignal(number), Raise):  # else someone has decided otherwise, to the process's end
                signal.signal(number, handler)


def leave_to_kernel(*numbers: int) -> None:
    """Has signals that raised Interrupted end the process at once, without a word."""
    for number in numbers:
        if isinstance(signal.getsignal(number), Raise):
            signal.signal(number, signal.SIG_DFL)


def end_if_stuck() -> None:
    """From now on a thread ends the process where an Interrupted hasn't ended it after GRACE_S.

    The interpreter calls handlers between two of its steps. The main thread comes to none while it waits for a peer
    in a collective, or for a name to be looked up; this thread does.
    """
    global _wakeup
    if _wakeup is not None or threading.current_thread() is not threading.main_thread():
        return
    _wakeup, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_attend, args=(_wakeup,), name="signals", daemon=True).start()


def _attend(wakeup: socket.socket) -> None:
    while True:
        for number in wakeup.recv(64):
            if isinstance(signal.getsignal(number), Raise):
                time.sleep(GRACE_S)
                handler = signal.getsignal(number)
                if isinstance(handler, Raise):
                    _end(handler.error(number))


def _end(error: Interrupted) -> None:
    uncaught = (Interrupted, error, None, threading.current_thread())
    threading.excepthook(threading.ExceptHookArgs(uncaught))
    os._exit(error.exit_code)


def _forget() -> None:
    """A forked process doesn't write into its parent's socket, nor raise where others expect to end it by SIGTERM."""
    signal.set_wakeup_fd(-1)
    leave_to_kernel(signal.SIGTERM, signal.SIGUSR1)
