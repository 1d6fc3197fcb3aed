"""DeepSpeed's operators in C++: built once for each environment, by one process at a time, then loaded."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from trainer.errors import BanyanError
from trainer.machine.cache_folder import cache_folder
from trainer.machine.durable import storage_errors
from trainer.machine.host import instructions
from trainer.machine.interrupt import cleaning

VARIABLE = "TORCH_EXTENSIONS_DIR"
LAST_LINES = 12  # of a compiler's complaints that are shown


def load_cpu_op() -> None:
    """Builds (once) and loads DeepSpeed's CPU op, one process at a time. BanyanError if it can't be built."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.comm.torch import build_shm_op

    with building("deepspeed_shm_comm", "DeepSpeed's CPU op: about a minute"):
        builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
        if builder is not None:  # else DeepSpeed would try every op it has, by a compiler, at each start of a rank
            deepspeed.ops.__compatible_ops__ = {builder.NAME: builder.is_compatible()}
        build_shm_op()


@contextlib.contextmanager
def building(name: str, what: str) -> Iterator[None]:
    """Where torch may build the extension `name`, one process at a time; `what` is announced if it must.

    torch guards the build by a lock file that outlives a killed process, and later ones wait for it for ever. Here a
    lock of the kernel's, which dies with its holder, comes first; whatever lock file is there then was left behind.
    """
    root = choose_folder()
    with storage_errors(root), (root / "banyan.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        for stale in root.glob(f"**/{name}/lock"):
            stale.unlink(missing_ok=True)
        if not any(root.glob(f"**/{name}/{name}.so")):
            _end_compilers(root)
            print(f"building {what}, this once", flush=True)
        try:
            with _own_programs_first(), contextlib.redirect_stdout(io.StringIO()):  # it reports a build at every start
                yield
        except (RuntimeError, ImportError, subprocess.CalledProcessError) as error:
            raise BanyanError(f"{name} can't be built in {root}: {_complaint(error)}") from error
        except BaseException:
            with cleaning():
                _end_compilers(root)
            raise


def choose_folder() -> Path:
    """The folder of this environment's operators, which torch is told of.

    Several installations share a home, several machines too. Each builds what another has built anew, in the same
    place, unless it has a folder of its own.
    """
    given = os.environ.get(VARIABLE)
    own = fingerprint(os.environ)
    if given and Path(given).name == own:  # from the process that started this one
        return Path(given)
    folder = (Path(given) if given else cache_folder(os.environ, "torch_extensions")) / own
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder)
    return folder


def fingerprint(environment: Mapping[str, str]) -> str:
    """Names what the built files depend on: interpreter, torch, DeepSpeed, compiler, processor."""
    import deepspeed
    import torch

    compiler = Path(shutil.which(environment.get("CXX", "c++")) or "none").resolve()
    parts = (
        sys.version,
        sys.prefix,
        torch.__version__,
        torch.__file__,
        deepspeed.__version__,
        deepspeed.__file__,
        str(compiler),
        str(compiler.stat().st_size) if compiler.exists() else "",
        environment.get("CXXFLAGS", ""),
        environment.get("CUDA_HOME", ""),
        platform.machine(),
        " ".join(sorted(instructions())),
    )
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:16]


def _complaint(error: BaseException) -> str:
    """The end of what a compiler or loader said, or what to install."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "there is no C++ compiler here (install g++, or name one by CXX)."
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return "\n".join(lines[-LAST_LINES:])


def _end_compilers(root: Path) -> None:
    """Ends what still builds below `root`, now that nobody may: it would write beside the next build."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and Path(process.cwd()).is_relative_to(root):
                process.kill()


@contextlib.contextmanager
def _own_programs_first() -> Iterator[None]:
    """Programs installed beside this Python go before the system's: another ninja builds anew what the first built."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before
