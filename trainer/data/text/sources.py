"""Files, folders and globs → documents (bytes of text), in an order that depends on their paths alone."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from trainer.data.text.file_names import escape
from trainer.data.text.formats import SNIFFED, ending_of, is_json_lines, kind_by_name, unpacked_name, unreadable
from trainer.data.text.packed import beginning, pieces
from trainer.errors import InputError

REMOTE = ("s3://", "gs://", "http://", "https://", "hf://", "pipe:")
NAMED_ENDINGS = 4  # endings that are counted by name where files are left out
HIDDEN = "hidden behind a leading dot"
LINKS = "links that leave the folder or lead nowhere"
DEVICES = "devices, pipes or sockets"


@dataclass(frozen=True)
class Source:
    """A file that holds documents.

    `given` is the input it was found by and `name` its path below that, both escaped (trainer.data.text.file_names);
    `packing` is "", ".gz" or ".zst", as the name says. A `strict` source was named by the user, or is of no known
    ending: where it turns out to hold no text, prepare stops.
    """

    given: str
    name: str
    path: Path
    kind: str  # text, jsonl, json (lines of it, or refused) or tar
    packing: str
    bytes: int
    modified_ns: int
    strict: bool


@dataclass
class LeftOut:
    """What was left alone in folders and matches of globs: files by ending, others by why with the first of each."""

    endings: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, why: str, path: Path) -> None:
        """Counts a file that is left alone for another reason than its ending."""
        self.others[why] += 1
        self.first.setdefault(why, escape(path))

    def __str__(self) -> str:
        said = []
        if self.endings:
            usual = self.endings.most_common(NAMED_ENDINGS)
            rest = self.endings.total() - sum(count for _, count in usual)
            each = [f"{count:,} {ending}" for ending, count in usual] + [f"{rest:,} more"] * bool(rest)
            said.append(f"{self.endings.total():,} files of other endings left out: {', '.join(each)}")
        said += [f"{count:,} {why} (first {self.first[why]})" for why, count in self.others.items()]
        return "; ".join(said)


@dataclass(frozen=True)
class Found:
    """What the inputs hold: the sources in order, and what was left alone."""

    sources: tuple[Source, ...]
    others: LeftOut

    @property
    def left_out(self) -> int:
        """Files in folders that were left alone for their ending."""
        return self.others.endings.total()


# ---------------------------------------------------------------------------------------------------------- finding


@dataclass
class _Search:
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    forbidden: Path  # the output: reading what is being written would never end
    text_field: str
    seen: set[str] = field(default_factory=set)
    others: LeftOut = field(default_factory=LeftOut)


def find_sources(
    inputs: list[str], include: list[str], exclude: list[str], output: Path, text_field: str = "text"
) -> Found:
    """The files that `inputs` name, each once, by input and then by path.

    Of a folder, files with a known ending are taken (with `include`: those endings alone), and JSON lines with
    `text_field` under .json or no ending; except paths that match `exclude` and what hides behind a leading dot.
    Links are followed as far as they stay in the folder.
    """
    search = _Search(
        include=tuple(ending.lower() if ending.startswith(".") else f".{ending.lower()}" for ending in include),
        exclude=tuple(exclude),
        forbidden=output.resolve(),
        text_field=text_field,
    )
    sources = [source for given in inputs for source in _find(given, search, inputs)]
    return Found(tuple(sources), search.others)


def _find(given: str, search: _Search, inputs: list[str]) -> list[Source]:
    if not given:
        raise InputError("data.input holds an empty name: take it out, or write . for the current folder.")
    if given.startswith(REMOTE):
        raise InputError(f"data.input={escape(given)}: remote input is not available yet; copy it to a local folder.")
    path = Path(given).expanduser()
    if os.path.isfile(path):
        return _take(given, path, path.name, search, strict=True)
    if os.path.isdir(path):
        files = [(path / name, name, False) for name in _walk(given, path, search)]
    elif os.path.exists(path):
        raise InputError(f"data.input={escape(given)}: neither a file nor a folder, but a device, pipe or socket.")
    else:
        files = list(_glob(given, path, search, inputs))
    if not files:
        endings = ", ".join(search.include) or "text, .jsonl[.gz|.zst], .tar"
        others = f", but {search.others}" if str(search.others) else ""
        raise InputError(
            f"data.input={escape(given)}: no file there with a known ending ({endings}){others}; set data.include, or "
            "name files."
        )
    return [source for file, name, strict in files for source in _take(given, file, name, search, strict=strict)]


def _glob(given: str, pattern: Path, search: _Search, inputs: list[str]) -> Iterator[tuple[Path, str, bool]]:
    """What a glob matches: path, name, and whether the file must be text. Folders that it matches are walked."""
    base = _base_of(pattern)
    matches = sorted(_matches(base, pattern, search), key=str) if base != pattern else []
    if not matches:
        raise InputError(
            f"data.input={escape(given)}: no such file or folder, and no glob that matches any.{_comma_hint(inputs)}"
        )
    for match in matches:
        if not _inside(match, base):
            search.others.add(LINKS, match)
        elif match.is_dir():
            for name in _walk(given, match, search):
                yield match / name, str(match / name), False
        elif not _excluded(PurePosixPath(match), search.exclude):
            if match.is_file():
                yield match, str(match), kind_by_name(match.name) is None
            else:
                search.others.add(DEVICES, match)


def _base_of(pattern: Path) -> Path:
    """The folder that a glob starts from: its leading parts without a wildcard."""
    parts = pattern.parts
    plain = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:plain])


def _matches(base: Path, pattern: Path, search: _Search) -> Iterator[Path]:
    """What a glob matches, save what hides behind a leading dot that the glob doesn't spell. `**` follows no link."""
    below = pattern.parts[len(base.parts) :]
    spelt = {part for part in below if part.startswith(".")}
    try:
        for match in base.glob(str(Path(*below))):
            inside = match.relative_to(base).parts
            if spelt or not any(part.startswith(".") for part in inside):
                yield match
            else:
                search.others.add(HIDDEN, match)
    except (ValueError, OSError) as error:
        raise InputError(f"data.input={escape(pattern)}: no glob that can be read ({error}).") from error


def _comma_hint(inputs: list[str]) -> str:
    """How to name a file with a comma, where the pieces between commas were taken for files of their own."""
    whole = ",".join(inputs)
    if len(inputs) > 1 and os.path.exists(os.path.expanduser(whole)):
        return f""" To read {escape(whole)}, write 'data.input=["{escape(whole)}"]'."""
    return ""


def _inside(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, leads to something in the folder."""
    try:
        return path.exists() and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except OSError:  # a circle of links
        return False


def _walk(given: str, folder: Path, search: _Search) -> list[str]:
    """The wanted files below `folder`, sorted by path. Links to folders aren't followed: they may run in circles."""

    def refuse(error: OSError) -> None:  # os.walk would leave the folder out without a word
        place = escape(error.filename)
        raise InputError(f"data.input={escape(given)}: {place} can't be read ({error.strerror}).") from error

    names: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        inside = PurePosixPath(Path(parent).relative_to(folder))
        if Path(parent).resolve() == search.forbidden:
            raise InputError(
                f"data.output={escape(search.forbidden)} lies inside data.input={escape(given)}: choose another output."
            )
        folders[:] = [name for name in folders if not _excluded(inside / name, search.exclude)]
        for name in (name for name in folders if name.startswith(".")):
            search.others.add(HIDDEN, Path(parent) / name)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(os.path.join(parent, name)) and not _inside(Path(parent) / name, folder):
                search.others.add(LINKS, Path(parent) / name)
        names += [str(inside / name) for name in files if _wanted_in(folder, Path(parent), inside, name, search)]
    return sorted(names)


def _wanted_in(folder: Path, parent: Path, inside: PurePosixPath, name: str, search: _Search) -> bool:
    """Whether a file in a folder is taken; counted if it isn't (and wasn't excluded by the user)."""
    path = parent / name
    if _excluded(inside / name, search.exclude):
        return False
    if name.startswith("."):
        search.others.add(HIDDEN, path)
    elif path.is_symlink() and not _inside(path, folder):
        search.others.add(LINKS, path)
    elif not path.is_file():
        search.others.add(DEVICES, path)
    elif _wanted(path, search):
        return True
    else:
        search.others.endings[escape(ending_of(name)) or "without ending"] += 1
    return False


def _excluded(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether the path, or a part of it, matches one of the glob patterns."""
    return any(
        fnmatch(str(path), pattern) or any(fnmatch(part, pattern) for part in path.parts) for pattern in patterns
    )


def _wanted(path: Path, search: _Search) -> bool:
    """Whether a file of this name is taken from a folder."""
    if search.include:
        return path.name.lower().endswith(search.include)
    kind, packing = kind_by_name(path.name) or ("", unpacked_name(path.name)[1])
    if kind == "json" or not (kind or ending_of(unpacked_name(path.name)[0])):
        return _holds_json_lines(path, packing, search.text_field)
    return bool(kind)


def _holds_json_lines(path: Path, packing: str, text_field: str) -> bool:
    """Whether a file whose name doesn't say so holds JSON lines with the text's field."""
    try:
        head, _, whole = beginning(pieces(path, packing), SNIFFED)
    except OSError as error:
        raise InputError(f"{escape(path)}: can't be read ({error.strerror or error}).") from error
    return is_json_lines(head, whole=whole, text_field=text_field)


def _take(given: str, path: Path, name: str, search: _Search, *, strict: bool) -> list[Source]:
    """A file as a source; nothing if an earlier input held it. InputError if its name says that it can't be read."""
    what = unreadable(name)
    if what is not None:
        raise InputError(
            f"data.input={escape(given)}: {escape(path)} is {what} by its name, which can't be read yet: convert it to "
            f'JSON lines ({{"{search.text_field}": …}}) or text, or leave it out of data.input and data.include.'
        )
    real = os.path.realpath(path)
    if real in search.seen:
        return []
    search.seen.add(real)
    kind, packing = kind_by_name(name) or ("text", unpacked_name(name)[1])
    status = path.stat()
    return [Source(escape(given), escape(name), path, kind, packing, status.st_size, status.st_mtime_ns, strict)]
