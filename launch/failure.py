"""How a failure is reported: one line if the user can mend it, a traceback if it is a crash.

A rank under our launcher prints nothing itself; it leaves its failure in the file that BANYAN_ERROR_FILE names, and
the launcher shows the first one of all ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import BanyanError
from trainer.machine.credentials import masked
from trainer.machine.interrupt import Interrupted
from trainer.machine.terminal import show

FILE_VARIABLE = "BANYAN_ERROR_FILE"
LAUNCHER_LOG = "launcher.log"
MOST_LOG_BYTES = 1 << 22
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = {
    errno.EACCES: "access isn't permitted: give this user access",
    errno.EPERM: "access isn't permitted: give this user access",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EIO: "the disk failed: check it",
    errno.ESTALE: "the network's disk lost it: look at the mount",
    errno.ELOOP: "links that lead in a circle: remove them",
    errno.EISDIR: "a folder where a file belongs: remove it",
    errno.ENOTDIR: "a file where a folder belongs: remove it",
}
"""What the disk refuses about a path, wherever it is met: nothing that a traceback would explain better."""


listeners: list[Callable[[Failure], None]] = []
"""Who is told of failures that are shown: alerts (launch/alerts.py)."""


@dataclass(frozen=True)
class Failure:
    """The end of a process that went wrong. `traceback` is empty where the message says all; `kind` is the error's."""

    time: float
    rank: int
    exit_code: int
    message: str
    traceback: str = ""
    kind: str = ""

    def show(self) -> None:
        """Prints it to stderr, and tells whoever listens."""
        for listen in listeners:
            listen(self)
        if self.traceback:
            show(self.traceback.rstrip(), file=sys.stderr)
        show(f"banyan: {self.message}", file=sys.stderr)


def of_exception(error: BaseException) -> Failure:
    """The failure that an exception at the end of a verb stands for; secrets are masked in it."""
    known = _exit_code_and_message(error)
    rank = int(os.environ.get("RANK", "0"))
    if known:
        code, message = known
        return Failure(time.time(), rank, code, masked(message), kind=type(error).__name__)
    trace = masked("".join(traceback.format_exception(error)))
    message = f"rank {rank} crashed with {type(error).__name__}; its traceback is above."
    return Failure(time.time(), rank, 1, message, trace, kind=type(error).__name__)


def report(failure: Failure) -> int:
    """Leaves the failure to the launcher if there is one, otherwise prints it; returns the exit code."""
    file = os.environ.get(FILE_VARIABLE)
    if not (file and _write(failure, Path(file))):
        with contextlib.suppress(OSError):  # where nobody reads it, the exit code says it
            failure.show()
    return failure.exit_code


def read(file: Path) -> Failure | None:
    """What a rank left in its error file; None if it left nothing, or hasn't written it all yet."""
    try:
        return Failure(**json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def was_first(failure: Failure) -> tuple[bool, float]:
    """A key by which the failure that took others along sorts before those, on hosts whose clocks may differ."""
    return failure.kind == Interrupted.__name__, failure.time


def keep(failure: Failure, run_dir: Path, *, output: str = "", began: float | None = None) -> None:
    """Leaves what a launcher knows of a failure in the run directory: a line of starts.jsonl, and logs/launcher.log.

    `output` is the end of what the rank printed, `began` when the launcher started the ranks. A disk that refuses
    changes nothing: it has been printed.
    """
    from trainer.machine.durable import require_plain_file
    from trainer.track.sinks.starts import record_failure

    told = {"rank": failure.rank, "exit_code": failure.exit_code, "reason": failure.message}
    record_failure(run_dir, at=failure.time, began=began, **told)  # type: ignore[arg-type]
    path = run_dir / "logs" / LAUNCHER_LOG
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure.time))
    text = "\n".join(filter(None, (failure.message, failure.traceback.rstrip(), output)))
    with contextlib.suppress(OSError, BanyanError):
        require_plain_file(path)
        if path.exists() and path.stat().st_size > MOST_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{moment},{int(failure.time % 1 * 1000):03d} ERROR banyan.launcher: {masked(text)}\n")


def _write(failure: Failure, file: Path) -> bool:
    """Writes it whole under its name; a local launcher's file is there already, and can't be replaced."""
    content = json.dumps(dataclasses.asdict(failure))
    try:
        if file.exists():
            file.write_text(content, encoding="utf-8")
            return True
        partial = file.with_suffix(".partial")
        partial.write_text(content, encoding="utf-8")
        partial.rename(file)
    except OSError:
        return False
    return True


def _exit_code_and_message(error: BaseException) -> tuple[int, str] | None:
    if isinstance(error, BanyanError):
        return error.exit_code, str(error)
    if isinstance(error, Interrupted):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, RuntimeError) and str(error) == "Could not determine home directory.":
        return 2, "a path begins with ~, and there is no such home folder: set HOME, or write the path out."
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        where = f" while writing {error.filename}" if error.filename else ""
        return 1, f"the disk is full{where}: free some space, then run the same command again."
    if isinstance(error, OSError) and error.filename and error.errno in _REFUSED:
        return 1, f"{os.fsdecode(error.filename)}: {_REFUSED[error.errno]}, then run the same command again."
    return None
