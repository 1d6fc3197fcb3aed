"""Files, folders, globs and URLs → sources, in an order that depends on their paths alone."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path, PurePosixPath

import braceexpand

from trainer.data.text import remote
from trainer.data.text.encodings import known_encoding, to_utf8
from trainer.data.text.file_names import escape
from trainer.data.text.files import open_file
from trainer.data.text.formats import (
    CODES,
    ENDINGS,
    RECORD_FORMATS,
    RECORDS,
    SNIFFED,
    ending_of,
    has_column,
    is_json_lines,
    is_wikipedia,
    kind_by_name,
    unpacked_name,
    unreadable,
)
from trainer.data.text.packed import DamagedArchive, beginning, pieces
from trainer.data.text.reading import USUAL, UTF_8, Reading
from trainer.errors import InputError

NAMED_ENDINGS = 4  # endings that are told apart where files are left out
MOST_EXPANDED = 10**6  # names that the braces of an input may stand for
MOST_STATE_BYTES = 2**24  # of a saved dataset's list of files
HIDDEN = "hidden behind a leading dot"
LINKS = "links that leave the folder or lead nowhere"
DEVICES = "devices, pipes or sockets"
CACHES = "Arrow files that aren't of the dataset saved beside them"
SAVED_STATE = "state.json"  # what `datasets` writes into the folder of a dataset saved on disk
NPY = ".npy"
SEPARATORS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Input:
    """An entry of data.input, or with the `key` data.sources.NAME.input of a source of its own, and how it is read."""

    given: str
    key: str = "data.input"
    reading: Reading = USUAL
    licence: str | None = None

    def __str__(self) -> str:
        return f"{self.key}={escape(self.given)}"


@dataclass(frozen=True)
class Source:
    """A file that holds documents.

    `given` is the input it was found by and `name` its path below that, both escaped (trainer.data.text.file_names);
    `address` is a local path or a URL. `packing` is what its name says, of packed.PACKINGS. A `strict` source was named
    by the user, or is of no known ending: where it turns out to hold no text, prepare stops. `modified_ns` of a remote
    file is another number that changes with it.
    """

    given: str
    name: str
    address: str
    kind: str  # of formats.FORMATS, or json (lines of it, or refused)
    packing: str
    bytes: int
    modified_ns: int
    strict: bool
    reading: Reading = USUAL
    licence: str | None = None

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return _last_part(self.address)


@contextmanager
def content_of(source: Source) -> Iterator[Iterator[bytes]]:
    """The unpacked bytes of a source, in pieces."""
    with open_file(source.address) as file:
        yield pieces(file, source.address, source.packing, source.reading.most_bytes)


def _last_part(address: str) -> str:
    """The name of a file, without what follows the path in a URL."""
    if address.startswith(("http://", "https://")):
        address = address.partition("?")[0].partition("#")[0]
    return PurePosixPath(address).name


@dataclass
class LeftOut:
    """What was left alone in folders and matches of globs: files by ending, others by why with the first of each."""

    endings: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, why: str, path: Path | str) -> None:
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
    inputs: list[str]
    seen: set[str] = field(default_factory=set)
    others: LeftOut = field(default_factory=LeftOut)


@dataclass(frozen=True)
class _File:
    """A file that was found: its address, its name below the input, and whether it must hold text."""

    address: str
    name: str
    strict: bool
    status: remote.RemoteStatus | None = None


def find_sources(inputs: Sequence[Input], include: list[str], exclude: list[str], output: Path) -> Found:
    """The files that `inputs` name, each once, by input and then by path.

    Of a folder, files with a known ending are taken (with `include`: those endings alone; with a format, its own), and
    JSON lines with the text's field under .json or no ending; except paths that match `exclude` and what hides behind
    a leading dot. Links are followed as far as they stay in the folder.
    """
    search = _Search(
        include=tuple(ending.lower() if ending.startswith(".") else f".{ending.lower()}" for ending in include),
        exclude=tuple(exclude),
        forbidden=output.resolve(),
        inputs=[entry.given for entry in inputs],
    )
    sources = [source for entry in inputs for source in _find(entry, search)]
    return Found(tuple(sources), search.others)


def _find(entry: Input, search: _Search) -> list[Source]:
    given = entry.given
    if not given:
        raise InputError(f"{entry.key} holds an empty name: take it out, or write . for the current folder.")
    if given.startswith("pipe:"):
        raise InputError(f"{entry}: a pipe can't be read again after an interruption; write its output to a file.")
    expanded = _expand(entry)
    several = expanded != [given]
    files = [file for name in expanded for file in _files_at(entry, name, search, several=several)]
    if not files:
        endings = ", ".join(search.include or ENDINGS.get(entry.reading.format or "", ()))
        known = endings or "text, .jsonl, .parquet, .csv, .html, .warc and others, also .gz, .zst, .xz or .bz2; .tar"
        others = f", but {search.others}" if str(search.others) else ""
        raise InputError(
            f"{entry}: no file there with a known ending ({known}){others}; set data.include, or name files."
        )
    return [source for file in files for source in _take(entry, file, search)]


def _expand(entry: Input) -> list[str]:
    """The names that braces stand for, as in shard-{000..127}.tar; the name itself, where it is a file's."""
    given = entry.given
    if "{" not in given or os.path.lexists(os.path.expanduser(given)):
        return [given]
    try:
        names = list(islice(braceexpand.braceexpand(given, escape=False), MOST_EXPANDED + 1))
    except ValueError:  # unbalanced: a name as it is
        return [given]
    if len(names) > MOST_EXPANDED:
        raise InputError(f"{entry}: its braces stand for more than {MOST_EXPANDED:,} names; use a glob.")
    return names


def _files_at(entry: Input, name: str, search: _Search, *, several: bool) -> list[_File]:
    """The files that a name without braces stands for, sorted by path. One of `several` is called by its whole path."""
    if remote.is_remote(name):
        return _files_at_url(entry, name, search, several=several)
    if "://" in name:
        raise InputError(f"{entry}: {name.partition(':')[0]}:// isn't known; use one of {', '.join(remote.SCHEMES)}.")
    path = Path(name).expanduser()
    if os.path.isfile(path):
        return [_File(os.fspath(path), str(path) if several else path.name, strict=True)]
    if os.path.isdir(path):
        below = _walk(entry, path, search)
        return [_File(os.fspath(path / file), str(path / file) if several else file, strict=False) for file in below]
    if os.path.exists(path):
        raise InputError(f"{entry}: neither a file nor a folder, but a device, pipe or socket.")
    return list(_glob(entry, path, search))


def _files_at_url(entry: Input, url: str, search: _Search, *, several: bool) -> list[_File]:
    """The files that a URL stands for: one, those that a glob matches, or those below a folder, sorted."""
    found = remote.matches(url)
    if not found and remote.has_glob(url):
        raise InputError(f"{entry}: no file there matches (over http:// there are no globs: use {{000..127}}).")
    if not found:
        status = remote.status_of(url)
        return [_File(url, url if several else _last_part(url), strict=True, status=status)]
    files = []
    states = [status.url for status in found if _last_part(status.url) == SAVED_STATE and not remote.has_glob(url)]
    saved = {state.removesuffix(SAVED_STATE): _saved_dataset(state) for state in states}
    base = "" if several or remote.has_glob(url) else url.rstrip("/") + "/"
    for status in found:
        name = status.url.removeprefix(base)
        inside = PurePosixPath(name if base else _last_part(name))
        if _excluded(PurePosixPath(name), search.exclude):
            continue
        if any(part.startswith(".") for part in inside.parts):
            search.others.add(HIDDEN, status.url)
        elif (dataset := saved.get(status.url.removesuffix(inside.name))) and _is_cache(inside.name, dataset):
            search.others.add(CACHES, status.url)
        elif remote.has_glob(url):
            files.append(_File(status.url, name, kind_by_name(inside.name) is None, status))
        elif _wanted(entry, status.url, search):
            files.append(_File(status.url, name, strict=False, status=status))
        else:
            search.others.endings[escape(ending_of(inside.name)) or "without ending"] += 1
    return files


def _glob(entry: Input, pattern: Path, search: _Search) -> Iterator[_File]:
    """What a glob matches. Folders that it matches are walked."""
    base = _base_of(pattern)
    matches = sorted(_matches(base, pattern, search), key=str) if base != pattern else []
    if not matches:
        which = "" if pattern == Path(entry.given).expanduser() else f" {escape(pattern)}:"
        hint = _comma_hint(search.inputs)
        raise InputError(f"{entry}:{which} no such file or folder, and no glob that matches any.{hint}")
    for match in matches:
        if not _inside(match, base):
            search.others.add(LINKS, match)
        elif match.is_dir():
            for name in _walk(entry, match, search):
                yield _File(os.fspath(match / name), str(match / name), strict=False)
        elif not _excluded(PurePosixPath(match), search.exclude):
            if match.is_file():
                yield _File(os.fspath(match), str(match), strict=kind_by_name(match.name) is None)
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


def _walk(entry: Input, folder: Path, search: _Search) -> list[str]:
    """The wanted files below `folder`, sorted by path. Links to folders aren't followed: they may run in circles."""

    def refuse(error: OSError) -> None:  # os.walk would leave the folder out without a word
        place = escape(error.filename)
        raise InputError(f"{entry}: {place} can't be read ({error.strerror}).") from error

    names: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        inside = PurePosixPath(Path(parent).relative_to(folder))
        if Path(parent).resolve() == search.forbidden:
            raise InputError(f"data.output={escape(search.forbidden)} lies inside {entry}: choose another output.")
        folders[:] = [name for name in folders if not _excluded(inside / name, search.exclude)]
        for name in (name for name in folders if name.startswith(".")):
            search.others.add(HIDDEN, Path(parent) / name)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(os.path.join(parent, name)) and not _inside(Path(parent) / name, folder):
                search.others.add(LINKS, Path(parent) / name)
        wanted = [name for name in files if _wanted_in(entry, folder, Path(parent), inside, name, search)]
        saved = _saved_dataset(os.path.join(parent, SAVED_STATE)) if SAVED_STATE in files else None
        for name in wanted:
            if saved and _is_cache(name, saved):
                search.others.add(CACHES, Path(parent) / name)
            else:
                names.append(str(inside / name))
    return sorted(names)


def _saved_dataset(state: str) -> set[str] | None:
    """The files of the dataset that `datasets` saved beside its `state`; None if that is another file of the same name.

    What is mapped later lies beside them.
    """
    try:
        with open_file(state) as file:
            return {entry["filename"] for entry in json.loads(file.read(MOST_STATE_BYTES))["_data_files"]}
    except (ValueError, RecursionError, KeyError, TypeError):
        return None


def _is_cache(name: str, saved: set[str]) -> bool:
    """Whether an Arrow file isn't of the dataset saved beside it."""
    return name.endswith(".arrow") and name not in saved


def _wanted_in(entry: Input, folder: Path, parent: Path, inside: PurePosixPath, name: str, search: _Search) -> bool:
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
    elif _wanted(entry, os.fspath(path), search):
        return True
    else:
        search.others.endings[escape(ending_of(name)) or "without ending"] += 1
    return False


def _excluded(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether the path, or a part of it, matches one of the glob patterns."""
    return any(
        fnmatch(str(path), pattern) or any(fnmatch(part, pattern) for part in path.parts) for pattern in patterns
    )


def _wanted(entry: Input, address: str, search: _Search) -> bool:
    """Whether a file of this name is taken from a folder."""
    name, reading = _last_part(address), entry.reading
    if search.include:
        return name.lower().endswith(search.include)
    plain, of_name = unpacked_name(name)
    kind, packing = kind_by_name(name) or ("", of_name)
    if reading.format in (RECORDS, CODES):
        return kind in RECORD_FORMATS or (reading.format == CODES and ending_of(plain) == NPY)
    if reading.format is not None:
        return kind == reading.format or ending_of(plain) in ENDINGS.get(reading.format, ())
    if kind == "json" or not (kind or ending_of(plain)):
        head, whole = _head(address, packing, reading)
        return is_json_lines(head, whole=whole, text_field=reading.text_field)
    if kind in SEPARATORS:
        return has_column(_head(address, packing, reading)[0], SEPARATORS[kind], reading.text_field)
    return bool(kind) or (ending_of(plain) == ".xml" and _is_dump(address, packing))


def _is_dump(address: str, packing: str) -> bool:
    """Whether an XML file is a wiki's dump; a broken archive, which may hold anything, isn't."""
    try:
        return is_wikipedia(_head(address, packing, USUAL)[0])
    except DamagedArchive:
        return False


def _head(address: str, packing: str, reading: Reading) -> tuple[bytes, bool]:
    """How a file begins, unpacked and in UTF-8, and whether that is all of it."""
    with open_file(address) as file:
        head, _, whole = beginning(pieces(file, address, packing), SNIFFED)
    encoding = known_encoding(head, reading)
    return (head if encoding == UTF_8 else b"".join(to_utf8(iter([head]), encoding))), whole


def _take(entry: Input, file: _File, search: _Search) -> list[Source]:
    """A file as a source; nothing if an earlier input held it. InputError if its name says that it can't be read."""
    name, reading = _last_part(file.address), entry.reading
    kind, packing = kind_by_name(name) or ("text", unpacked_name(name)[1])
    what = unreadable(name)
    if reading.format == CODES and ending_of(unpacked_name(name)[0]) == NPY:
        kind = "npy"
    elif reading.format in (RECORDS, CODES):
        kind = kind if kind in RECORD_FORMATS else "jsonl"
    elif reading.format is not None:
        kind = reading.format
    elif ending_of(unpacked_name(name)[0]) == ".xml" and _is_dump(file.address, packing):
        kind = "wikipedia"
    elif what is not None:
        raise InputError(
            f"{entry}: {escape(file.address)} is {what} by its name, which can't be read yet: convert it to "
            f'JSON lines ({{"{reading.text_field}": …}}) or text, or leave it out of {entry.key} and data.include.'
        )
    real = file.address if file.status else os.path.realpath(file.address)
    if real in search.seen:
        return []
    search.seen.add(real)
    if file.status is not None:
        size, modified = file.status.bytes or 0, file.status.version
    else:
        status = os.stat(file.address)
        size, modified = status.st_size, status.st_mtime_ns
    return [
        Source(
            given=escape(entry.given),
            name=escape(file.name),
            address=file.address,
            kind=kind,
            packing=packing,
            bytes=size,
            modified_ns=modified,
            strict=file.strict,
            reading=reading,
            licence=entry.licence,
        )
    ]
