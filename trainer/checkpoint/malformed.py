"""What a checkpoint's files say and can't be: the line names the file, and the mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import InputError
from trainer.machine.json_file import Malformed

MEND = "restore the checkpoint, or choose another."


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Names the file, and the mend, where it is missing or malformed (InputError)."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {MEND}") from None
    except Malformed as error:
        raise InputError(f"{path}: {error}; {MEND}") from None
