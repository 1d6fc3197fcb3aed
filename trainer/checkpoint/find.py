"""Which checkpoints of a run are whole: files that are there, of the right size and hash, as COMPLETE says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trainer.checkpoint.complete import Hashed, StoredFile, hash_range, in_order, read_complete
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.errors import InputError
from trainer.machine.terminal import show
from trainer.ranks.mesh import Mesh


def find_problems(folder: Path, *, part: int = 0, parts: int = 1, hashes: bool = True) -> Iterator[str]:
    """Why the checkpoint isn't whole, a line for each file. Looks at every `parts`-th of what was written at once.

    That is a file, or a rank's part of one. Files of which nothing is looked at aren't touched.
    """
    try:
        files = read_complete(folder)
    except InputError as error:
        yield str(error)
        return
    number = 0
    for name in in_order(files):
        start, mine = 0, []
        for hashed in files[name].hashed:
            if number % parts == part:
                mine.append((start, hashed))
            start, number = start + hashed.bytes, number + 1
        problem = _file_problem(folder / name, files[name], mine if hashes else []) if mine else None
        if problem:
            yield f"{name} {problem}"


def _file_problem(path: Path, expected: StoredFile, hashed: list[tuple[int, Hashed]]) -> str | None:
    try:
        if not path.is_file():
            return "is missing"
        if path.is_symlink() and path.resolve().parent != path.parent.resolve():
            return "is a link that leads out of the folder"
        if path.stat().st_size != expected.bytes:
            return f"has {path.stat().st_size:,} bytes of {expected.bytes:,}"
        if any(hash_range(path, start, part.bytes) != part.xxh3_128 for start, part in hashed):
            return "doesn't match its hash"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return None


def find_problem(folder: Path, *, part: int = 0, parts: int = 1, hashes: bool = True) -> str | None:
    """The first of `find_problems`, or None."""
    return next(find_problems(folder, part=part, parts=parts, hashes=hashes), None)


def find_whole(run_dir: Path, mesh: Mesh) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, or None, and a line for each newer one that isn't whole.

    Every rank calls it, and looks at its share of the files.
    """
    broken: list[str] = []
    for step in reversed(mesh.from_main(list_steps(run_dir))):
        folder = folder_of(run_dir, step)
        problem = mesh.first(find_problem(folder, part=mesh.rank, parts=mesh.world_size))
        if problem is None:
            return folder, broken
        broken.append(f"{folder}: not whole ({problem})")
    return None, broken


def find_newest(run_dir: Path, mesh: Mesh) -> tuple[Path | None, list[str]]:
    """As find_whole; InputError if there are checkpoints and none is whole: beginning anew would throw the run away."""
    folder, broken = find_whole(run_dir, mesh)
    if folder is None and broken:
        raise InputError(
            f"{'; '.join(broken)}. No checkpoint of the run is whole: "
            "restore one, or remove these folders to begin anew."
        )
    return folder, broken


def find_checkpoint(run_dir: Path, step: int | None) -> Path:
    """The checkpoint of `step`, or the newest whole one, in a single process. InputError if there is none.

    A line on stderr tells of each newer one that isn't whole.
    """
    steps = list_steps(run_dir)
    if not steps:
        raise InputError(f"{run_dir}: no checkpoint there; is it the run.dir of a run that has saved?")
    if step is not None and step not in steps:
        raise InputError(f"checkpoint.step={step}: not in {run_dir}; it has {', '.join(map(str, steps))}.")
    problems: list[str] = []
    for candidate in [step] if step is not None else reversed(steps):
        folder = folder_of(run_dir, candidate)
        problem = find_problem(folder)
        if problem is None:
            for line in problems:
                show(f"banyan: {line}; {folder.name} is taken", file=sys.stderr)
            return folder
        problems.append(f"{folder}: not whole ({problem})")
    raise InputError(f"{'; '.join(problems)}. Restore the files or choose another checkpoint.step.")
