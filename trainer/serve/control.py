"""How a running server is told to change: a socket file that its user alone can open. The public port takes no path.

A request is a line of JSON, {"do": "reload" | "rollback", …}; so is the answer, {"said": …} or {"error", "exit_code"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from trainer.config import Checkpoint, Run
from trainer.errors import BanyanError, ConfigError
from trainer.serve.service import Service

MOST_BYTES = 65536
WAIT_S = 3600.0
LONGEST = 107  # bytes of the path of a socket file


def socket_path(port: int) -> Path:
    """Where the server of a port listens, in a folder that its user alone can enter."""
    folder = _base(f"banyan-serve-{os.getuid()}/{port}.sock") / f"banyan-serve-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(f"{folder}: must be a folder that you alone can enter (mode 0700); remove it, or mend it.")
    return folder / f"{port}.sock"


def _base(below: str) -> Path:
    """The first folder for such files in which one can be made: on a node of a cluster not all may be there."""
    named = (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"))
    for folder in (Path(name) for name in named if name):
        if len(os.fsencode(folder / below)) <= LONGEST and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return Path("/tmp")


@contextlib.asynccontextmanager
async def controlled(service: Service, port: int) -> Any:
    """While it lasts, the server can be told to change. `port` is its own already: a socket file from before is stale.

    ConfigError where another server listens at the same port of another address: the file is that one's.
    """
    path = socket_path(port)
    if _is_answered(path):
        raise ConfigError(
            f"serve.port={port}: another server of yours has this port, at another address, and is told to change by "
            f"{path}; choose another port."
        )
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(lambda r, w: _attend(service, r, w), path=str(path), limit=MOST_BYTES)
    finally:
        os.umask(before)
    try:
        yield path
    finally:
        server.close()
        path.unlink(missing_ok=True)


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(1.0)
        try:
            asked.connect(str(path))
        except OSError:
            return False
        return True


async def _attend(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        answer: dict[str, Any] = {"said": await _do(service, json.loads(await reader.readline()))}
    except BanyanError as error:
        answer = {"error": str(error), "exit_code": error.exit_code}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()


async def _do(service: Service, request: Any) -> str:
    if request.get("do") == "rollback":
        return await service.rollback()
    if request.get("do") == "reload":
        run, step = Run(dir=request.get("run_dir")), request.get("step")
        return await service.reload(run, Checkpoint(step=step), request.get("path"))
    raise ConfigError("the server knows reload and rollback.")


def tell_server(port: int, request: dict[str, Any]) -> str:
    """Tells the server of a port something and returns what it says. BanyanError where it refuses or isn't there."""
    path = socket_path(port)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(WAIT_S)
        try:
            asked.connect(str(path))
        except OSError as error:
            raise ConfigError(f"serve.port={port}: no server of yours listens there ({error.strerror}).") from error
        asked.sendall(json.dumps(request).encode() + b"\n")
        with asked.makefile("r", encoding="utf-8") as answer:
            line = answer.readline()
    if not line:
        raise BanyanError(f"serve.port={port}: the server ended before it answered.")
    found = json.loads(line)
    if "error" in found:
        raise (ConfigError if found.get("exit_code") == ConfigError.exit_code else BanyanError)(found["error"])
    return str(found["said"])
