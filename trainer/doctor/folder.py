"""The doctor's folder on the shared disk, which goes when it ends, however that is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.config.doctor import Doctor
from trainer.errors import FoundError, InputError
from trainer.machine.durable import REFUSALS
from trainer.machine.vanishing_folder import vanishing_folder
from trainer.ranks.mesh import Mesh

PREFIX = "doctor-"
OWNER = "owner"  # a file that rank 0 holds a lock of
BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


@contextlib.contextmanager
def shared_folder(config: Doctor, mesh: Mesh) -> Iterator[Path]:
    """A new folder on the shared disk, removed at the end. InputError where none can be made; FoundError where the disk
    is full or broken."""
    parent = Path(config.doctor.folder or "runs").expanduser().absolute()
    with contextlib.ExitStack() as stack:

        def make() -> str:
            try:
                parent.mkdir(parents=True, exist_ok=True)
                remove_abandoned(parent)
                folder = stack.enter_context(vanishing_folder(PREFIX, parent))
                owner = stack.enter_context((folder / OWNER).open("wb"))
            except OSError as error:
                if error.errno in BROKEN:
                    mend = REFUSALS.get(error.errno, f"{error.strerror}: mend it")
                    raise FoundError(f"doctor.folder={parent}: {mend}.") from error
                raise InputError(
                    f"doctor.folder={parent}: {error.strerror}; give a folder on the shared disk that you may write to."
                ) from error
            with contextlib.suppress(OSError):  # where locks don't hold the check of the disk says so
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return str(folder)

        yield Path(mesh.main_finds(make))


def remove_abandoned(parent: Path) -> None:
    """Removes folders of doctors that are gone: of a node that died, say, on which nothing was left to do it."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / OWNER).open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
