"""Runs programs that a model wrote, by a command that the user names, and nowhere else.

The command gets the program on its standard input, or in the file whose path stands where `{file}` does; exit code 0
counts as passed. What keeps the program from doing harm is the command (bwrap, a container); this adds limits of time
and memory, an environment without the user's variables, and an empty folder to run in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import ConfigError

FILE = "{file}"
MOST_WRITTEN = 2**26  # bytes of a file that the program writes
SHOWN = 300  # last bytes of its errors, in the log of samples
KEPT = ("PATH", "LANG", "LC_ALL", "TZ")  # of the environment

# Takes the limits, then becomes the command. It ends with whoever started it (prctl's PR_SET_PDEATHSIG).
_LIMITED = """
import os, resource, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
except Exception:
    pass
seconds, memory, written = map(int, sys.argv[1:4])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
if memory:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
try:
    os.execvp(sys.argv[4], sys.argv[4:])
except OSError as error:
    sys.exit(f"{sys.argv[4]}: {error.strerror}")
"""


@dataclass(frozen=True)
class ProgramVerdict:
    """Whether a program passed, and why not: `exit 1`, `signal 9` or `time`, with the end of what it complained of."""

    passed: bool
    why: str = ""


@dataclass(frozen=True)
class ProgramSandbox:
    """A command, and its limits: wall-clock seconds, and bytes of address space of each process (0: none)."""

    command: tuple[str, ...]
    seconds: float
    memory: int

    def key(self, program: str) -> str:
        """Names a program under these conditions."""
        content = json.dumps([self.command, self.seconds, self.memory, program])
        return f"program {hashlib.sha256(content.encode()).hexdigest()}"

    def run(self, program: str) -> ProgramVerdict:
        """Runs a program to its end, or to its limit; whatever it started in its session ends with it."""
        with tempfile.TemporaryDirectory(prefix="banyan-sandbox-", ignore_cleanup_errors=True) as folder:
            file, inside = Path(folder, "program"), Path(folder, "inside")
            file.write_text(program, encoding="utf-8", errors="surrogatepass")
            inside.mkdir()
            command = [part.replace(FILE, str(file)) for part in self.command]
            limits = [str(int(self.seconds) + 1), str(self.memory), str(MOST_WRITTEN)]
            environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {"HOME": str(inside)}
            with file.open("rb") as given, Path(folder, "errors").open("w+b") as errors:
                started = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _LIMITED, *limits, *command],
                    stdin=subprocess.DEVNULL if FILE in " ".join(self.command) else given,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    cwd=inside,
                    env=environment,
                    start_new_session=True,
                )
                try:
                    code: int | None = started.wait(self.seconds)
                except subprocess.TimeoutExpired:
                    code = None
                finally:
                    _end_session(started)
                errors.seek(max(0, errors.seek(0, os.SEEK_END) - SHOWN))
                complaint = " ".join(errors.read().decode("utf-8", "replace").split())
        if code == 0:
            return ProgramVerdict(True)
        how = f"time: {self.seconds:g} s" if code is None else f"signal {-code}" if code < 0 else f"exit {code}"
        return ProgramVerdict(False, f"{how}: {complaint}" if complaint else how)


def open_sandbox(command: str | None, seconds: float, memory_mib: int, task: str) -> ProgramSandbox:
    """The sandbox of evaluate.sandbox, tried. ConfigError where it isn't named, as `task` needs, or doesn't run."""
    if command is None:
        raise ConfigError(
            f"evaluate.tasks: {task} runs programs that the model writes: name what runs them, as in "
            'evaluate.sandbox="bwrap … python3 -I -" (docs/EVALUATE.md); without it they aren\'t run.'
        )
    where = f"evaluate.sandbox={command}"
    try:
        parts = tuple(shlex.split(command))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}.") from error
    if not parts or shutil.which(parts[0]) is None:
        raise ConfigError(f"{where}: there is no such command; install it, or name another.")
    sandbox = ProgramSandbox(
        (str(Path(str(shutil.which(parts[0]))).absolute()), *parts[1:]), seconds, memory_mib * 2**20
    )
    tried = sandbox.run("")
    if not tried.passed:
        raise ConfigError(
            f"{where}: an empty program doesn't pass there ({tried.why}); mend the command or its limits."
        )
    return sandbox


def _end_session(started: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()
