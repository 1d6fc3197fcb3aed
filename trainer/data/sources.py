"""Files, folders and globs → documents (bytes of text), in an order that depends on their paths alone."""

from __future__ import annotations

import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from trainer.data.filters import BAD_JSON, NO_TEXT_FIELD, UNDECODABLE
from trainer.data.tars import Member, read_members
from trainer.errors import InputError

_TEXT = (
    ".txt .text .md .markdown .rst .adoc .org .tex .bib .srt .po .html .htm .xml .svg .css .scss .less "
    ".py .pyi .pyx .ipy .js .jsx .mjs .cjs .ts .tsx .vue .svelte .c .h .cc .cpp .cxx .hh .hpp .hxx .cu .cuh .m .mm "
    ".java .kt .kts .scala .groovy .clj .cs .fs .vb .go .rs .zig .nim .d .swift .dart .rb .php .pl .pm .lua .tcl "
    ".r .jl .hs .ml .mli .ex .exs .erl .el .lisp .scm .f .f90 .f95 .pas .ada .asm .s .v .sv .vhd .vhdl "
    ".sh .bash .zsh .fish .ps1 .bat .sql .graphql .proto .cmake .mk .gradle .toml .yaml .yml .ini .cfg .conf "
    ".diff .patch .log"
)
TEXT_ENDINGS = frozenset(_TEXT.split())
JSONL_ENDINGS = (".jsonl", ".ndjson")
PACKINGS = ("", ".gz", ".zst")
REMOTE = ("s3://", "gs://", "http://", "https://", "hf://", "pipe:")
ZSTD_PIECE = 2**20  # compressed bytes taken at once
ZSTD_WINDOW = 2**31  # bytes; what `zstd --long=31` needs


@dataclass(frozen=True)
class Source:
    """A file that holds documents.

    `given` is the input it was found by and `name` its path below that; `packing` is "", ".gz" or ".zst". A `strict`
    source was named by the user, or is of no known ending: where it turns out binary, prepare stops.
    """

    given: str
    name: str
    path: Path
    kind: str  # text, jsonl or tar
    packing: str
    bytes: int
    modified_ns: int
    strict: bool


@dataclass(frozen=True)
class Found:
    """What the inputs hold: the sources in order, and how many files in folders were left alone for their ending."""

    sources: tuple[Source, ...]
    left_out: int


@dataclass(frozen=True)
class Rejected:
    """A record that holds no document, and why."""

    reason: str


# ---------------------------------------------------------------------------------------------------------- finding


@dataclass
class _Search:
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    forbidden: Path  # the output: reading what is being written would never end
    seen: set[str] = field(default_factory=set)
    left_out: int = 0


def find_sources(inputs: list[str], include: list[str], exclude: list[str], output: Path) -> Found:
    """The files that `inputs` name, each once, by input and then by path.

    Of a folder, files with a known ending are taken (with `include`: those endings alone), except paths that match
    `exclude` and what hides behind a leading dot.
    """
    search = _Search(
        include=tuple(ending if ending.startswith(".") else f".{ending}" for ending in include),
        exclude=tuple(exclude),
        forbidden=output.resolve(),
    )
    sources = [source for given in inputs for source in _find(given, search)]
    return Found(tuple(sources), search.left_out)


def _find(given: str, search: _Search) -> list[Source]:
    if given.startswith(REMOTE):
        raise InputError(f"data.input={given}: remote input is not available yet; copy it to a local folder.")
    path = Path(given).expanduser()
    if path.is_file():
        return _take(given, path, path.name, search, strict=True)
    if path.is_dir():
        files = [(path / name, name, False) for name in _walk(given, path, search)]
    else:
        files = list(_glob(given, path, search))
    if not files:
        endings = ", ".join(search.include) or "text, .jsonl[.gz|.zst], .tar"
        raise InputError(f"data.input={given}: no file there with a known ending ({endings}); set data.include.")
    return [source for file, name, strict in files for source in _take(given, file, name, search, strict=strict)]


def _glob(given: str, pattern: Path, search: _Search) -> Iterator[tuple[Path, str, bool]]:
    """What a glob matches: path, name, and whether the file must be text. Folders that it matches are walked."""
    matches = sorted(glob.glob(str(pattern), recursive=True))
    if not matches:
        raise InputError(f"data.input={given}: no such file or folder, and no glob that matches any.")
    for match in map(Path, matches):
        if match.is_dir():
            for name in _walk(given, match, search):
                yield match / name, str(match / name), False
        elif not _excluded(PurePosixPath(match), search.exclude):
            yield match, str(match), kind_of(match.name) is None


def _walk(given: str, folder: Path, search: _Search) -> list[str]:
    """The wanted files below `folder`, sorted by path. Links to folders aren't followed: they may run in circles."""

    def refuse(error: OSError) -> None:  # os.walk would leave the folder out without a word
        raise InputError(f"data.input={given}: {error.filename} can't be read ({error.strerror}).") from error

    names: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        inside = PurePosixPath(Path(parent).relative_to(folder))
        if Path(parent).resolve() == search.forbidden:
            raise InputError(f"data.output={search.forbidden} lies inside data.input={given}: choose another output.")
        folders[:] = [f for f in folders if not f.startswith(".") and not _excluded(inside / f, search.exclude)]
        for name in files:
            if name.startswith(".") or _excluded(inside / name, search.exclude):
                continue
            if _wanted(name, search.include):
                names.append(str(inside / name))
            else:
                search.left_out += 1
    return sorted(names)


def _excluded(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether the path, or a part of it, matches one of the glob patterns."""
    return any(
        fnmatch(str(path), pattern) or any(fnmatch(part, pattern) for part in path.parts) for pattern in patterns
    )


def _wanted(name: str, include: tuple[str, ...]) -> bool:
    return name.endswith(include) if include else kind_of(name) is not None


def _take(given: str, path: Path, name: str, search: _Search, *, strict: bool) -> list[Source]:
    """A file as a source; nothing if an earlier input held it, or if it's a dangling link or a device."""
    real = os.path.realpath(path)
    if real in search.seen or not path.is_file():
        return []
    search.seen.add(real)
    kind, packing = kind_of(name) or ("text", "")
    status = path.stat()
    return [Source(given, name, path, kind, packing, status.st_size, status.st_mtime_ns, strict)]


def kind_of(name: str) -> tuple[str, str] | None:
    """What a file of this name holds (text, jsonl or tar) and its packing; None if the ending says nothing."""
    name = name.lower()
    if name.endswith(".tar"):
        return "tar", ""
    for ending in JSONL_ENDINGS:
        for packing in PACKINGS:
            if name.endswith(ending + packing):
                return "jsonl", packing
    return ("text", "") if os.path.splitext(name)[1] in TEXT_ENDINGS else None


# ---------------------------------------------------------------------------------------------------------- reading


def read_documents(source: Source, text_field: str) -> Iterator[tuple[int, bytes | Rejected]]:
    """The records of a source with their numbers from 0 (a text file's only one, a line, a tar's sample).

    A broken file, or one of which no record has `text_field`, is refused by name.
    """
    try:
        if source.kind == "text":
            yield 0, without_mark(source.path.read_bytes())
        elif source.kind == "jsonl":
            yield from _read_jsonl(source, text_field)
        else:
            yield from _read_tar(source, text_field)
    except OSError as error:
        raise InputError(f"{source.path}: can't be read ({error.strerror or error}).") from error


def without_mark(text: bytes) -> bytes:
    """Drops a leading UTF-8 byte order mark, which is no part of the text."""
    return text.removeprefix(b"\xef\xbb\xbf")


def _read_jsonl(source: Source, text_field: str) -> Iterator[tuple[int, bytes | Rejected]]:
    with_text, example = 0, ""
    for record, line in enumerate(_lines(source)):
        line = line.strip()
        if not line:
            continue
        document, problem = _text_of_line(without_mark(line) if record == 0 else line, text_field)
        with_text += not problem
        example = example or (f"line {record + 1} {problem}" if problem else "")
        yield record, document
    if example and not with_text:
        raise InputError(
            f'{source.path}: no record has a text in data.text_field="{text_field}" ({example}): '
            "set data.text_field to the field that holds the text."
        )


def _text_of_line(line: bytes, text_field: str) -> tuple[bytes | Rejected, str]:
    """The text of a JSON line, and "" or what is wrong with its form."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Rejected(UNDECODABLE), ""
    except (ValueError, RecursionError):
        return Rejected(BAD_JSON), "is not JSON"
    if not isinstance(record, dict):
        return Rejected(BAD_JSON), "is no JSON object"
    text = record.get(text_field)
    if not isinstance(text, str):
        return Rejected(NO_TEXT_FIELD), f"has the fields {', '.join(map(repr, record)) or 'of an empty object'}"
    try:
        return text.encode("utf-8"), ""
    except UnicodeEncodeError:  # half a surrogate pair, written as \ud83d
        return Rejected(UNDECODABLE), ""


def _lines(source: Source) -> Iterator[bytes]:
    """The lines of a plain, gzip or zstandard file; a cut or damaged one is an error."""
    if source.packing and not source.bytes:
        raise InputError(f"{source.path}: an empty file is no {source.packing} archive: fetch or write it again.")
    if source.packing == ".zst":
        yield from _split(_unpack_zstd(source.path))
    elif source.packing == ".gz":
        try:
            with gzip.open(source.path) as file:
                yield from file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{source.path}: damaged or cut short ({error}); fetch or write it again.") from error
    else:
        with open(source.path, "rb") as file:
            yield from file


def _split(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest


def _unpack_zstd(path: Path) -> Iterator[bytes]:
    """What the frames of a .zst file hold. (The library's own stream reader takes a cut file for a whole one.)"""
    import zstandard

    frame = None
    with open(path, "rb") as file:
        try:
            while packed := file.read(ZSTD_PIECE):
                while packed:
                    frame = frame or zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
                    yield frame.decompress(packed)
                    packed = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
        except zstandard.ZstdError as error:
            raise InputError(f"{path}: damaged ({error}); fetch or write it again.") from error
    if frame is not None:
        raise InputError(f"{path}: cut short within a zstandard frame; fetch or write it again.")


def _read_tar(source: Source, text_field: str) -> Iterator[tuple[int, bytes | Rejected]]:
    """The text members of a WebDataset: of each sample the member `text_field`, or else `txt`."""
    with_text, record, endings = 0, -1, set[str]()
    with open(source.path, "rb") as file:
        for record, sample in enumerate(_samples(source.path)):
            endings.update(sample)
            member = sample.get(text_field) or sample.get("txt")
            if member is None:
                yield record, Rejected(NO_TEXT_FIELD)
                continue
            with_text += 1
            file.seek(member.offset)
            yield record, without_mark(file.read(member.bytes))
    if record < 0:
        raise InputError(f"{source.path}: the archive holds no file; remove it from data.input, or write it again.")
    if not with_text:
        raise InputError(
            f"{source.path}: no sample has a member .{text_field} or .txt (members: "
            f"{', '.join(f'.{ending}' for ending in sorted(endings)[:8])}): set data.text_field to the text's."
        )


def _samples(path: Path) -> Iterator[dict[str, Member]]:
    """Consecutive members that share a key, by ending, which is all after the first dot: WebDataset's rule."""
    key, sample = None, dict[str, Member]()
    for member in read_members(path):
        folder, _, file = member.name.rpartition("/")
        stem, _, ending = file.partition(".")
        if key is not None and key != (folder, stem):
            yield sample
            sample = {}
        key = (folder, stem)
        sample[ending] = member
    if sample:
        yield sample
