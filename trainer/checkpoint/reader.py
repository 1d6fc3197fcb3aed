"""Checkpoints: fragments of named parameters in safetensors files, complete or not there at all.

    checkpoints/step-00001000/
      rank-00000.safetensors   what rank 0 holds: one 1-D fp32 tensor per fragment
      rank-00000.json          which parameter, range and kind each of them is
      state.json               step, position, data segments, configuration, shape of the run
      COMPLETE                 size and hash of every file, written last

The format knows no world size, ZeRO stage or tensor degree: a reader takes the regions that it needs from whatever
files hold them. A fragment names a tensor-parallel `slice` of its parameter, or null for the whole, and a range in it.
writer.py writes them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import xxhash

from trainer.checkpoint.folders import folder_of, list_steps, step_of
from trainer.checkpoint.fragment import WEIGHT
from trainer.errors import InputError
from trainer.machine.bare_name import bare_name
from trainer.machine.json_file import (
    Count,
    Malformed,
    Matching,
    Positive,
    Sha256,
    Within,
    Xxh3,
    from_json,
    from_known,
    read_json,
    shown,
)
from trainer.machine.terminal import show
from trainer.model.partition import Slice
from trainer.model.region import Region, Storage, copy
from trainer.ranks.mesh import Mesh

T = TypeVar("T")

FORMAT = 1
COMPLETE = "COMPLETE"
STATE = "state.json"
MOST_INDEX_BYTES = 2**30  # of a rank's JSON file: about 300 for each fragment
FP32, FP32_BYTES = "F32", 4
MOST_DIMENSIONS = 8
VISIBLE = "[!-~]+"  # ASCII
MEND = "restore the checkpoint, or choose another."


# ---------------------------------------------------------------------------------------------------------- finding


def describe(path: Path) -> dict[str, Any]:
    """Size and xxh3-128 of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "xxh3_128": digest.hexdigest()}


@dataclass(frozen=True)
class StoredFile:
    """Size and hash of a checkpoint's file, as in COMPLETE."""

    bytes: Count
    xxh3_128: Xxh3


@dataclass(frozen=True)
class Complete:
    """The content of COMPLETE."""

    files: dict[str, StoredFile]


def read_complete(folder: Path) -> dict[str, StoredFile]:
    """Size and hash of a whole checkpoint's files, by bare name. InputError if COMPLETE isn't there or damaged."""
    path = folder / COMPLETE
    try:
        files = from_json(Complete, read_json(path)).files
    except FileNotFoundError:
        raise InputError(f"{COMPLETE} is missing") from None
    except Malformed as error:
        raise InputError(f"{COMPLETE} is damaged ({error})") from None
    for name in files:
        if bare_name(name, path) == COMPLETE:
            raise InputError(f"{COMPLETE} is damaged (it names itself)")
    if STATE not in files:
        raise InputError(f"{COMPLETE} is damaged (it doesn't name {STATE})")
    return files


def kept_steps(whole: list[int], *, keep: int, keep_every: int, best: int | None) -> set[int]:
    """Of whole checkpoints, in ascending order: the newest `keep`, every `keep_every`-th, and the `best` one."""
    return set(whole[-keep:]) | {step for step in whole if step == best or (keep_every and step % keep_every == 0)}


def find_problems(folder: Path, *, part: int = 0, parts: int = 1, hashes: bool = True) -> Iterator[str]:
    """Why the checkpoint isn't whole, a line for each reason. Hashes every `parts`-th file, from `part` on."""
    try:
        files = read_complete(folder)
    except InputError as error:
        yield str(error)
        return
    for number, (name, expected) in enumerate(sorted(files.items())):
        problem = _file_problem(folder / name, expected, hashes=hashes and number % parts == part)
        if problem:
            yield f"{name} {problem}"


def _file_problem(path: Path, expected: StoredFile, *, hashes: bool) -> str | None:
    try:
        if not path.is_file():
            return "is missing"
        if path.is_symlink() and path.resolve().parent != path.parent.resolve():
            return "is a link that leads out of the folder"
        if path.stat().st_size != expected.bytes:
            return f"has {path.stat().st_size:,} bytes of {expected.bytes:,}"
        if hashes and describe(path) != asdict(expected):
            return "doesn't match its hash"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return None


def find_problem(folder: Path, *, part: int = 0, parts: int = 1, hashes: bool = True) -> str | None:
    """The first of `find_problems`, or None."""
    return next(find_problems(folder, part=part, parts=parts, hashes=hashes), None)


def find_newest(run_dir: Path, mesh: Mesh) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a line for each newer one that isn't whole; every rank hashes its share.

    InputError if there are checkpoints and none is whole: beginning anew would throw the run away.
    """
    broken: list[str] = []
    for step in reversed(mesh.from_main(list_steps(run_dir))):
        folder = folder_of(run_dir, step)
        problem = mesh.first(find_problem(folder, part=mesh.rank, parts=mesh.world_size))
        if problem is None:
            return folder, broken
        broken.append(f"{folder}: not whole ({problem})")
    if broken:
        raise InputError(
            f"{'; '.join(broken)}. No checkpoint of the run is whole: "
            "restore one, or remove these folders to begin anew."
        )
    return None, broken


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


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class FragmentRecord:
    """A fragment as rank-NNNNN.json tells of it."""

    parameter: Annotated[str, Matching(VISIBLE)]
    shape: tuple[Count, ...]
    slice: Slice | None
    start: Count
    stop: Count
    kind: Annotated[str, Matching(VISIBLE)]
    file: str
    tensor: Annotated[str, Matching(VISIBLE)]

    def region(self) -> Region:
        """The region; Malformed if it isn't inside the parameter."""
        cut, dimensions = self.slice, len(self.shape)
        inside = cut is None or (0 <= cut.dim < dimensions and 0 <= cut.start < cut.stop <= self.shape[cut.dim])
        if (
            dimensions > MOST_DIMENSIONS
            or not inside
            or not self.start <= self.stop <= Region.of_slice(self.shape, cut).count
        ):
            raise Malformed(f"[{self.start}, {self.stop}) of {cut or 'all'} isn't inside shape {list(self.shape)[:8]}")
        return Region(self.shape, cut, self.start, self.stop)


@dataclass(frozen=True)
class RankIndex:
    """The content of rank-NNNNN.json."""

    fragments: tuple[FragmentRecord, ...]
    files: dict[str, StoredFile]


@dataclass(frozen=True)
class Piece:
    """A region of a parameter that the checkpoint holds, and where."""

    region: Region
    file: str
    tensor: str


@dataclass(frozen=True)
class Shape:
    """Of the shape of the run that saved, what is told to people."""

    world_size: Positive
    zero_stage: Annotated[int, Within(0, 3)]
    tensor: Positive = 1
    sequence: Positive = 1
    expert: Positive = 1


@dataclass(frozen=True)
class Sections:
    """Of the configuration of the run that saved, what a reader relies on."""

    train: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    checkpoint: dict[str, Any]


@dataclass(frozen=True)
class State:
    """The content of state.json. `progress`, `history`: read by their own classes."""

    step: Count
    position: Count
    tokens: Count
    progress: dict[str, Any]
    shape: dict[str, Any]
    config: dict[str, Any]
    history: dict[str, Any]
    tokenizer_sha256: Sha256
    time: Annotated[float, Within(0, 2**40)]


def read_state(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state.json, its fields checked. InputError where that can't be."""
    content = _read_object(folder / STATE)
    with _explained(folder / STATE):
        state = from_known(State, content)
        from_known(Shape, state.shape)
        sections = from_known(Sections, state.config)
        for section, key in ((sections.train, "precision"), (sections.model, "name")):
            if not (isinstance(section.get(key), str) and section[key].isprintable()):
                raise Malformed(f"config: {key} is no text in a line")
        if step_of(folder.name) not in (None, state.step):
            raise Malformed(f"it is of step {state.step}")
    return content


def _read_object(path: Path) -> dict[str, Any]:
    """state.json, if it is of this format."""
    with _explained(path):
        content = read_json(path)
        if not isinstance(content, dict):
            raise Malformed("no object")
    if content.get("format") != FORMAT:
        raise InputError(f"{path.parent}: format {shown(content.get('format'))}; this version reads {FORMAT}.")
    return content


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Names the file, and the mend, where it is malformed."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {MEND}") from None
    except Malformed as error:
        raise InputError(f"{path}: {error}; {MEND}") from None


class CheckpointReader:
    """Reads any region of any parameter from a whole checkpoint; files are mapped, only what is asked for is read.

    InputError where what the files say can't be: their hashes tell damage, not who wrote them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._named = read_complete(folder)
        except InputError as error:
            raise InputError(f"{folder}: not whole ({error})") from None
        self._bytes = sum(file.bytes for file in self._named.values())
        _read_object(folder / STATE)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.pieces: dict[tuple[str, str], list[Piece]] = {}
        for name in sorted(name for name in self._named if name.startswith("rank-") and name.endswith(".json")):
            with _explained(folder / name):
                for fragment in from_json(RankIndex, read_json(folder / name, most_bytes=MOST_INDEX_BYTES)).fragments:
                    self._add(fragment)
        if not self.shapes:
            raise InputError(f"{folder}: it holds no parameter; {MEND}")
        self._files: dict[str, Any] = {}

    def _add(self, fragment: FragmentRecord) -> None:
        """Notes where a fragment is; Malformed if that can't be."""
        name, region = fragment.parameter, fragment.region()
        if bare_name(fragment.file, self.folder) not in self._named:
            raise Malformed(f"{fragment.file} isn't named by {COMPLETE}")
        if self.shapes.setdefault(name, region.shape) != region.shape:
            raise Malformed(f"{shown(name)} has two shapes")
        if math.prod(region.shape) * FP32_BYTES > self._bytes:
            raise Malformed(f"{shown(name)} is larger than all files together")
        self.pieces.setdefault((name, fragment.kind), []).append(Piece(region, fragment.file, fragment.tensor))

    @cached_property
    def state(self) -> dict[str, Any]:
        """The content of state.json, its fields checked."""
        return read_state(self.folder)

    def stated(self, name: str, read: Callable[[Any], T]) -> T:
        """What `read` makes of a field of state.json. InputError if that can't be."""
        value = self.state[name]
        with _explained(self.folder / STATE):
            return read(value)

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """What the checkpoint holds, as (parameter, kind)."""
        return list(self.pieces)

    def require(self, kind: str) -> None:
        """Refuses a checkpoint without this kind of weights."""
        if not any(held == kind for _, held in self.pieces):
            raise InputError(
                f"{self.folder}: holds no moving average of the weights; leave checkpoint.ema out, or train with "
                "train.ema."
            )

    def stored(self, piece: Piece) -> tuple[str, list[int]]:
        """Kind of numbers, as "F32", and shape of what a file holds for a piece."""
        return self._described(self._slice(piece))

    def read(self, parameter: str, kind: str, region: Region) -> torch.Tensor:
        """The region's elements of a parameter; 1-D, fp32, on the CPU. A `region.Source`.

        InputError if the checkpoint doesn't hold them all.
        """
        result = torch.empty(region.count, dtype=torch.float32)
        found = 0
        for piece in self.pieces.get((parameter, kind), []):
            found += copy(region, result, piece.region, self._storage(piece))
        if found != region.count:
            raise InputError(f"{self.folder}: holds {found:,} of {region.count:,} elements of {parameter} ({kind}).")
        return result

    def read_whole(self, parameter: str, kind: str) -> torch.Tensor:
        """All of a parameter, in its shape."""
        shape = self.shapes[parameter]
        return self.read(parameter, kind, Region.of_slice(shape, None)).view(shape)

    def _storage(self, piece: Piece) -> Storage:
        found = self._slice(piece)
        if self._described(found) != (FP32, [piece.region.count]):
            raise InputError(
                f"{self.folder / piece.file}: {shown(piece.tensor)} isn't {FP32} [{piece.region.count}]; {MEND}"
            )

        def stored(start: int, stop: int) -> torch.Tensor:
            return found[start:stop]

        return stored

    @staticmethod
    def _described(found: Any) -> tuple[str, list[int]]:
        return str(found.get_dtype()), list(found.get_shape())

    def _slice(self, piece: Piece) -> Any:
        """A lazy view of a stored tensor."""
        from safetensors import SafetensorError, safe_open

        try:
            if piece.file not in self._files:
                self._files[piece.file] = safe_open(self.folder / piece.file, framework="pt")
            return self._files[piece.file].get_slice(piece.tensor)
        except (SafetensorError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.folder / piece.file}: {reason}; {MEND}") from error

    def check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Refuses a model whose parameters aren't those of the checkpoint."""
        for name in sorted(shapes.keys() | self.shapes.keys()):
            if shapes.get(name) != self.shapes.get(name):
                raise InputError(
                    f"{self.folder}: {name} is {self.shapes.get(name, 'not there')} in the checkpoint and "
                    f"{shapes.get(name, 'not there')} in the model; set model.* to what the run was started with."
                )


def read_weights(folder: Path, kind: str = WEIGHT) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole fp32 weights by name, one at a time, from a checkpoint of any shape; `kind` may be their average."""
    reader = CheckpointReader(folder)
    reader.require(kind)
    for name in reader.shapes:
        yield name, reader.read_whole(name, kind)
