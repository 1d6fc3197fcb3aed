"""What W&B's lineage names: data → run → checkpoint → evaluation and export.

An artifact refers to the small file that tells the hashes of all others, a manifest.json or a checkpoint's COMPLETE;
shards and weights stay where they are. Data that has a card brings it along, an evaluation its results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from trainer.machine.json_file import Count, Malformed, Matching, from_json, from_known

DATA_FACT = "data"  # in facts.json
CARD_FILES = ("card.html", "DATA_CARD.md")
DATASET, CHECKPOINT = "dataset", "model"  # kinds, as W&B calls them
EVALUATION, EXPORT = "evaluation", "model"
HASHED_BYTES = 2**20  # of an export's file, at most: larger ones, its weights, are referred to without a hash
LONGEST_NAME = 100  # characters; W&B takes 128
SHORT = 16  # characters of a fingerprint that stand in an alias

ManifestPath = Annotated[str, Matching(r"([\w.-]+/)?manifest\.json")]


@dataclass(frozen=True)
class DataReference:
    """An output of prepare: where it is, and the fingerprint that each of its manifests states."""

    name: str
    folder: str
    fingerprints: dict[str, str]  # by the manifest's path in the folder
    documents: Count
    tokens: Count


@dataclass(frozen=True)
class ArtifactRecord:
    """A version of an artifact: files that are referred to, and hashed or not, files that are uploaded, and what is
    known. `addresses` are files at URLs, whose hashes are known by others of them."""

    name: str
    kind: str
    references: Mapping[str, Path] = field(default_factory=dict)  # by name in the artifact
    unhashed: Mapping[str, Path] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    folder: Path | None = None  # uploaded whole
    metadata: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


def read_references(facts: Mapping[str, Any]) -> list[DataReference]:
    """The data in the facts of a run; none in those that an earlier version wrote. Malformed if it isn't that."""
    found = [from_known(DataReference, each) for each in from_json(list[Any], facts.get(DATA_FACT, []))]
    for reference in found:
        for path in reference.fingerprints:
            from_json(ManifestPath, path)
            if ".." in path:
                raise Malformed(f"{DATA_FACT}: {path!a} leads out of its folder")
    return found


def data_artifact(reference: DataReference) -> ArtifactRecord:
    """The artifact of prepared data."""
    folder = Path(reference.folder)
    cards = [folder / name for name in CARD_FILES]
    first = next(iter(reference.fingerprints.values()), "")
    return ArtifactRecord(
        name=_artifact_name(f"data-{reference.name}"),
        kind=DATASET,
        references={path: folder / path for path in reference.fingerprints},
        files=tuple(card for card in cards if card.is_file() and not card.is_symlink()),
        metadata={
            "folder": reference.folder,
            "fingerprints": reference.fingerprints,
            "documents": reference.documents,
            "tokens": reference.tokens,
        },
        aliases=(f"fingerprint-{_artifact_name(first)[:SHORT]}",) if first else (),
    )


def checkpoint_artifact(complete: Path, step: int, run_id: str) -> ArtifactRecord:
    """The artifact of a whole checkpoint, by its file COMPLETE."""
    return ArtifactRecord(
        name=_artifact_name(f"checkpoint-{run_id}"),
        kind=CHECKPOINT,
        references={complete.name: complete},
        metadata={"folder": str(complete.parent.resolve()), "step": step},
        aliases=(f"step-{step}",),
    )


def evaluation_artifact(results: Path, *, run_id: str, step: int, figures: Mapping[str, float]) -> ArtifactRecord:
    """The artifact of an evaluation of a checkpoint, by its file of results, which is uploaded."""
    return ArtifactRecord(
        name=_artifact_name(f"evaluation-{run_id}"),
        kind=EVALUATION,
        files=(results,),
        metadata={"folder": str(results.parent.resolve()), "step": step, "figures": dict(figures)},
        aliases=(f"step-{step}",),
    )


def export_artifact(folder: Path, *, run_id: str, form: str, steps: Sequence[int], upload: bool) -> ArtifactRecord:
    """The artifact of an exported model, of the mean of the checkpoints of `steps`: by reference, or uploaded."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    return ArtifactRecord(
        name=_artifact_name(f"export-{run_id}-{form}"),
        kind=EXPORT,
        references={} if upload else {name: path for name, path in files.items() if sizes[name] <= HASHED_BYTES},
        unhashed={} if upload else {name: path for name, path in files.items() if sizes[name] > HASHED_BYTES},
        folder=folder if upload else None,
        metadata={"folder": str(folder.resolve()), "format": form, "steps": list(steps), "bytes": sizes},
        aliases=(f"step-{steps[0]}",),
    )


def _artifact_name(text: str) -> str:
    """A name that W&B takes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:LONGEST_NAME]
