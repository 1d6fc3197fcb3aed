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

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from trainer.engine.fragments import WEIGHT
from trainer.engine.mesh import Mesh
from trainer.engine.region import Region, Storage, copy
from trainer.engine.steps import folder_of, list_steps
from trainer.errors import InputError
from trainer.model.partition import Slice

FORMAT = 1


# ---------------------------------------------------------------------------------------------------------- finding


def describe(path: Path) -> dict[str, Any]:
    """Size and xxh3-128 of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "xxh3_128": digest.hexdigest()}


def read_complete(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file of a whole checkpoint, by name. InputError if COMPLETE isn't there or damaged."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / "COMPLETE").read_text("utf-8"))["files"]
    except FileNotFoundError:
        raise InputError("COMPLETE is missing") from None
    except (ValueError, KeyError):
        raise InputError("COMPLETE is damaged") from None
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
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != expected["bytes"]:
            yield f"{name} has {path.stat().st_size:,} bytes of {expected['bytes']:,}"
        elif hashes and number % parts == part and describe(path) != expected:
            yield f"{name} doesn't match its hash"


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
    """The checkpoint of `step`, or the newest whole one, in a single process. InputError if there is none."""
    steps = list_steps(run_dir)
    if not steps:
        raise InputError(f"{run_dir}: no checkpoint there; is it the run.dir of a run that has saved?")
    if step is not None and step not in steps:
        raise InputError(f"checkpoint.step={step}: not in {run_dir}; it has {', '.join(map(str, steps))}.")
    problems = []
    for candidate in [step] if step is not None else reversed(steps):
        folder = folder_of(run_dir, candidate)
        problem = find_problem(folder)
        if problem is None:
            return folder
        problems.append(f"{folder}: not whole ({problem})")
    raise InputError(f"{'; '.join(problems)}. Restore the files or choose another checkpoint.step.")


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Piece:
    """A region of a parameter that the checkpoint holds, and where."""

    region: Region
    file: str
    tensor: str

    @staticmethod
    def from_json(record: dict[str, Any]) -> Piece:
        """From a fragment of rank-NNNNN.json."""
        cut = Slice(**record["slice"]) if record["slice"] else None
        region = Region(tuple(record["shape"]), cut, record["start"], record["stop"])
        return Piece(region, record["file"], record["tensor"])


class CheckpointReader:
    """Reads any region of any parameter from a whole checkpoint; files are mapped, only what is asked for is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state: dict[str, Any] = json.loads((folder / "state.json").read_text("utf-8"))
        if self.state.get("format") != FORMAT:
            raise InputError(f"{folder}: format {self.state.get('format')}; this version reads {FORMAT}.")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.pieces: dict[tuple[str, str], list[Piece]] = {}
        for path in sorted(folder.glob("rank-*.json")):
            for record in json.loads(path.read_text("utf-8"))["fragments"]:
                piece = Piece.from_json(record)
                self.shapes[record["parameter"]] = piece.region.shape
                self.pieces.setdefault((record["parameter"], record["kind"]), []).append(piece)
        self._files: dict[str, Any] = {}

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """What the checkpoint holds, as (parameter, kind)."""
        return list(self.pieces)

    def stored(self, piece: Piece) -> tuple[str, list[int]]:
        """Kind of numbers, as "F32", and shape of what a file holds for a piece."""
        found = self._open(piece.file).get_slice(piece.tensor)
        return str(found.get_dtype()), list(found.get_shape())

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
        def stored(start: int, stop: int) -> torch.Tensor:
            return self._open(piece.file).get_slice(piece.tensor)[start:stop]

        return stored

    def _open(self, file: str) -> Any:
        from safetensors import safe_open

        if file not in self._files:
            self._files[file] = safe_open(self.folder / file, framework="pt")
        return self._files[file]

    def check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Refuses a model whose parameters aren't those of the checkpoint."""
        for name in sorted(shapes.keys() | self.shapes.keys()):
            if shapes.get(name) != self.shapes.get(name):
                raise InputError(
                    f"{self.folder}: {name} is {self.shapes.get(name, 'not there')} in the checkpoint and "
                    f"{shapes.get(name, 'not there')} in the model; set model.* to what the run was started with."
                )


def read_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole fp32 weights by name, one at a time, from a checkpoint of any shape."""
    reader = CheckpointReader(folder)
    for name in reader.shapes:
        yield name, reader.read_whole(name, WEIGHT)
