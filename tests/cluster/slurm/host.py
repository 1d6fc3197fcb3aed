"""A machine within the machine: processes in network, host-name, mount and process namespaces of their own.

All of it, the network too, ends with its first process, and that with the process that made it. Nothing has a name
outside: no /run/netns, no /etc/netns.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

TOOLS = ("ip", "nsenter", "setpriv", "unshare")
LOGIN = ("--net", "--uts", "--mount")
NODE = (*LOGIN, "--pid", "--fork", "--kill-child", "--mount-proc")
_TRIAL = "ip link add br0 type bridge && ip link add one type veth peer name two && hostname n1 && mount --bind $0 $0"


def can_isolate() -> bool:
    """Whether namespaces, a bridge and mounts can be had here; not so in a container without privileges."""
    trial = ["unshare", *NODE, "sh", "-c", _TRIAL, "/etc/hosts"]
    return subprocess.run(trial, capture_output=True, timeout=20).returncode == 0


def start_daemon(command: Sequence[str], output: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts a process that dies with this one, however that ends; `output` gets what it prints."""
    with output.open("ab") as file:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


class Host:
    """One such machine: its first process runs `command`, once `go` is called, when the network is ready.

    `spaces`: NODE, or LOGIN for one whose commands (`inside`) see the processes of the real machine.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        spaces: Sequence[str],
        hosts_file: Path,
        output: Path,
        environment: dict[str, str],
    ) -> None:
        self.name = name
        self._forks = "--fork" in spaces
        # A shell stays the first process: it reaps what loses its parent, as the first one must. The command dies with
        # it, also where no namespace of processes sees to that.
        script = (
            f"read -r _; hostname {name}; mount --bind {shlex.quote(str(hosts_file))} /etc/hosts; "
            f"setpriv --pdeathsig KILL {shlex.join(command)} </dev/null; exit"
        )
        self._process = start_daemon(["unshare", *spaces, "bash", "-c", script], output, environment)
        self._wait_for_namespaces()

    def _wait_for_namespaces(self, timeout_s: float = 20) -> None:
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + timeout_s
        while not self._first() or os.readlink(f"/proc/{self._first()}/ns/net") == own:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no namespaces for {self.name}")
            time.sleep(0.01)

    def _first(self) -> int | None:
        pid = self._process.pid
        if not self._forks:
            return pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    @property
    def pid(self) -> int:
        """The first process, as the outside counts: kill it and the whole machine is gone."""
        first = self._first()
        assert first is not None, f"{self.name} is dead"
        return first

    def is_alive(self) -> bool:
        """Whether it hasn't been killed."""
        return self._process.poll() is None

    def configure(self, *lines: str) -> None:
        """Runs lines of `ip -batch` in its network."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "-batch", "-"]
        subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True, timeout=20)

    def go(self) -> None:
        """Lets the command begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.close()

    def inside(self, command: Sequence[str], folder: Path) -> list[str]:
        """The command line that runs a command on this machine, in `folder`, as somebody logged in there would."""
        files = (("net", "net"), ("uts", "uts"), ("mount", "mnt"))
        spaces = [f"--{kind}=/proc/{self.pid}/ns/{file}" for kind, file in files]
        return ["nsenter", *spaces, "env", f"--chdir={folder}", *command]

    def kill(self) -> None:
        """SIGKILL: all its processes, and its network; returns once they are gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._process.wait(timeout=20)
