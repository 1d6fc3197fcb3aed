"""Mutations of files as such: gone, another kind of thing, a link, unreadable, far too large."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random


def gone(draw: Random, path: Path, outside: Path) -> None:
    path.unlink()


def folder(draw: Random, path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()


def full_folder(draw: Random, path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / path.name).write_bytes(b"x")


def pipe(draw: Random, path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_to_copy(draw: Random, path: Path, outside: Path) -> None:
    """What caches of models do: the file lies elsewhere."""
    target = outside / "copy"
    shutil.copyfile(path, target)
    path.unlink()
    path.symlink_to(target)


def link_to_secret(draw: Random, path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(outside / "secret")


def link_to_nothing(draw: Random, path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(outside / "planted")


def link_in_circle(draw: Random, path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def link_to_device(draw: Random, path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(draw.choice(("/dev/zero", "/dev/null", "/proc/self/environ")))


def unreadable(draw: Random, path: Path, outside: Path) -> None:
    path.chmod(0)


def future(draw: Random, path: Path, outside: Path) -> None:
    """A clock was wrong."""
    os.utime(path, (4e9, 4e9))


def huge(draw: Random, path: Path, outside: Path) -> None:
    """A hole: of a terabyte where something says how large the file is, of 2 GB in a text, which is read to its end."""
    is_text = path.suffix in (".txt", ".jsonl", ".gz", ".zst")
    os.truncate(path, 2**31 if is_text else draw.choice((2**33, 2**40)))


def folder_unreadable(draw: Random, path: Path, outside: Path) -> None:
    path.parent.chmod(0)


def folder_gone(draw: Random, path: Path, outside: Path) -> None:
    shutil.rmtree(path.parent)


def folder_is_file(draw: Random, path: Path, outside: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"x")


def folder_is_link(draw: Random, path: Path, outside: Path) -> None:
    """The folder lies elsewhere."""
    shutil.move(path.parent, outside / "folder")
    path.parent.symlink_to(outside / "folder")


def strange_neighbour(draw: Random, path: Path, outside: Path) -> None:
    """A file that doesn't belong there, of a name that not everybody can spell."""
    name = draw.choice(
        (
            b"\xb2\xe2.txt",
            b"a\nb.json",
            b"n" * 250,
            b"...",
            b"rank-00001.json",
            b"rank-9.json",
            b"-rf",
            b"step-99999999999",
        )
    )
    target = os.path.join(os.fsencode(path.parent), name)
    with open(target, "wb") as file:
        file.write(draw.choice((b"", b"{}", b"text\n", path.read_bytes())))


def strange_folder(draw: Random, path: Path, outside: Path) -> None:
    """A folder that doesn't belong there."""
    name = draw.choice(
        (
            b"\xb2\xe2",
            b"step-99999999",
            b"step-123456789",
            b"step-00000000",
            b"step-\xd9\xa1\xd9\xa1\xd9\xa1\xd9\xa1\xd9\xa1\xd9\xa1\xd9\xa1\xd9\xa1",
            b"step-00000001.partial-x",
        )
    )
    os.mkdir(os.path.join(os.fsencode(path.parent.parent), name))


MUTATIONS: tuple[Callable[[Random, Path, Path], None], ...] = (
    *(gone, folder, full_folder, pipe, link_to_copy, link_to_secret, link_to_nothing, link_in_circle, link_to_device),
    *(
        unreadable,
        huge,
        future,
        folder_unreadable,
        folder_gone,
        folder_is_file,
        folder_is_link,
        strange_neighbour,
        strange_folder,
    ),
)


def mutate(draw: Random, path: Path, outside: Path) -> str:
    """Mutates the file at `path`; how."""
    chosen = draw.choice(MUTATIONS)
    try:
        chosen(draw, path, outside)
    except OSError as error:  # an earlier mutation took it away
        return f"{chosen.__name__} ({error.strerror})"
    return chosen.__name__
