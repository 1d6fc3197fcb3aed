"""Which checkpoints stay: the newest, every so-manieth, the best. And what killed writers left is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer.checkpoint.complete import COMPLETE
from trainer.checkpoint.folders import PARTIAL, folder_of, list_steps


def kept_steps(whole: list[int], *, keep: int, keep_every: int, best: int | None) -> set[int]:
    """Of whole checkpoints, in ascending order: the newest `keep`, every `keep_every`-th, and the `best` one."""
    return set(whole[-keep:]) | {step for step in whole if step == best or (keep_every and step % keep_every == 0)}


def retain(run_dir: Path, *, keep: int, keep_every: int, best: int | None) -> None:
    """Removes all whole checkpoints but the newest `keep`, every `keep_every`-th, and the `best` one."""
    whole = [step for step in list_steps(run_dir) if (folder_of(run_dir, step) / COMPLETE).is_file()]
    for step in set(whole) - kept_steps(whole, keep=keep, keep_every=keep_every, best=best):
        folder = folder_of(run_dir, step)
        if folder.is_symlink():
            continue  # what it leads to isn't the run's alone
        (folder / COMPLETE).unlink()  # from here on it doesn't count, however far the removal comes
        shutil.rmtree(folder, ignore_errors=True)


def remove_attempts(run_dir: Path) -> None:
    """Removes what killed writers left. Rank 0 calls it before the first save."""
    root = run_dir / "checkpoints"
    for entry in root.iterdir() if root.is_dir() else ():
        if PARTIAL.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
