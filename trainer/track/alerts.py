"""Alerts of a run: at most one of a kind in track.alerts.every_minutes, whichever of its processes raises it.

RUN_DIR/alerts.jsonl is the record, a JSON object per line, of what was raised, and is what bounds it: across ranks,
starts and launchers. Nothing that goes wrong with an alert ends or delays training.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from trainer.config.alerts import Alerts
from trainer.errors import InputError
from trainer.machine.credentials import masked
from trainer.machine.durable import require_plain_file
from trainer.machine.json_file import Count, Malformed, from_known, parse_json
from trainer.track.sinks.journal import last_rows

RECORD = "alerts.jsonl"
RECORD_TAIL_BYTES = 65536  # in which the last alert of a kind is looked for
LONGEST_TEXT = 2000  # characters
TIMEOUT_S = 10.0  # of one try of a webhook
COMMAND_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 2.0
TRIES = 3
ENVIRONMENT = "env:"


class Alerter:
    """Sends the alerts of one run; `say` is told what couldn't be sent."""

    def __init__(self, settings: Alerts, run_dir: Path, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._say = say
        self._others: list[tuple[str, tuple[Callable[[str, str], None], ...]]] = []
        self._threads: list[threading.Thread] = []

    def add_way(self, name: str, *send: Callable[[str, str], None]) -> None:
        """One more way, that gets kind and text."""
        self._others.append((name, send))

    def alert(self, kind: str, text: str, *, step: int | None = None) -> bool:
        """Raises an alert, unless one of its kind was raised a short time ago or nobody wants it; whether it did.

        It is delivered by a thread.
        """
        if not self._settings.is_on or kind not in self._settings.on:
            return False
        message: dict[str, Any] = {
            "time": 0.0,  # when it is recorded
            "kind": kind,
            "run": self._run_dir.name,
            "run_dir": str(self._run_dir),
            "host": platform.node(),
            "step": step,
            "text": f"{self._run_dir.name}: {masked(text)}"[:LONGEST_TEXT],
        }
        try:
            if not self._record(message):
                return False
        except Exception as error:
            self._say(f"alert of kind {kind} couldn't be recorded, and wasn't sent: {error}")
            return False
        thread = threading.Thread(target=self._deliver, args=(message,), name=f"alert-{kind}", daemon=True)
        thread.start()
        self._threads.append(thread)
        return True

    def finish(self, timeout_s: float = 2 * TIMEOUT_S) -> None:
        """Waits until what was raised has been delivered, or given up, but no longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _record(self, message: dict[str, Any]) -> bool:
        """Notes the alert unless one of its kind is there that is too young. One process at a time looks and notes.

        Hosts' clocks differ: one that was noted a little later than now is young as well.
        """
        path = self._run_dir / RECORD
        require_plain_file(path)
        with path.open("a+b") as file:
            _lock_soon(file)
            message["time"] = round(time.time(), 3)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - RECORD_TAIL_BYTES))
            last = max((at for at, kind in map(_time_and_kind, file) if kind == message["kind"]), default=None)
            if last is not None and abs(message["time"] - last) < 60 * self._settings.every_minutes:
                return False
            file.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
            file.flush()
        return True

    def _deliver(self, message: dict[str, Any]) -> None:
        ways: list[tuple[str, Callable[[], None]]] = []
        if self._settings.webhook:
            ways.append(("webhook", lambda: _post(address_of(str(self._settings.webhook)), message)))
        if self._settings.command:
            ways.append(("command", lambda: _run(self._settings.command, message)))
        for name, senders in self._others:
            ways += [(name, partial(send, message["kind"], message["text"])) for send in senders]
        for name, send in ways:
            try:
                send()
            except Exception as error:
                self._say(f"alert of kind {message['kind']} couldn't be sent by {name}: {_in_a_line(error)}")


@dataclass(frozen=True)
class Alert:
    """An alert that was raised."""

    time: float = 0.0
    kind: str = ""
    text: str = ""
    step: Count | None = None


def read_alerts(run_dir: Path) -> list[Alert]:
    """The last alerts of a run; lines that aren't alerts are left out. InputError if the record isn't a file."""
    try:
        return [from_known(Alert, row) for row in last_rows(run_dir / RECORD, parse=_alert_row)]
    except Malformed as error:
        raise InputError(f"{run_dir / RECORD}: {error}. Remove it.") from error


def _alert_row(line: bytes) -> dict[str, Any]:
    row = parse_json(line)
    from_known(Alert, row)
    return dict(row)


def address_of(webhook: str) -> str:
    """The address that track.alerts.webhook stands for. ValueError for one that isn't http(s), or an empty variable."""
    address = webhook
    if webhook.startswith(ENVIRONMENT):
        name = webhook.removeprefix(ENVIRONMENT)
        address = os.environ.get(name, "")
        if not address:
            raise ValueError(f"the environment has no {name}")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no http:// or https:// address")
    return address


def _post(address: str, message: dict[str, Any]) -> None:
    """POSTs the message, and tries again where the server can't be reached or says that it is its own fault."""
    body = json.dumps(message).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "banyan"}
    opener = urllib.request.build_opener(_NoRedirect)
    for left in reversed(range(TRIES)):
        try:
            opener.open(urllib.request.Request(address, body, headers), timeout=TIMEOUT_S).close()
            return
        except OSError as error:
            if left == 0 or 300 <= getattr(error, "code", 500) < 500:
                raise
            time.sleep(2.0 ** (TRIES - left) / 4)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A message goes to the address that was given, and to no other."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follows none."""


def _run(command: list[str], message: dict[str, Any]) -> None:
    body = json.dumps(message, ensure_ascii=False).encode()
    done = subprocess.run(command, input=body, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(f"exit code {done.returncode}{': ' + said[-1] if said else ''}")


def _lock_soon(file: IO[bytes]) -> None:
    """Takes an exclusive lock. OSError if somebody holds it for LOCK_TIMEOUT_S: others write a line and let go."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(f"another process has held {file.name} for {LOCK_TIMEOUT_S:g} s") from None
        time.sleep(0.005)


def _time_and_kind(line: bytes) -> tuple[float, str | None]:
    """Of a line of the record; one that was cut, or isn't ours, counts for no kind."""
    try:
        found = json.loads(line)
        return float(found["time"]), str(found["kind"])
    except (ValueError, TypeError, KeyError):
        return 0.0, None


def _in_a_line(error: Exception) -> str:
    return masked(" ".join(str(error).split()) or type(error).__name__)
