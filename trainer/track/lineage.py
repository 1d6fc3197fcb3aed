"""What W&B's lineage names: the data that a run was made from, and its checkpoint.

An artifact refers to the small file that tells the hashes of all others, a manifest.json or a checkpoint's COMPLETE;
shards and weights stay where they are. Data that has a card brings it along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from trainer.machine.json_file import Count, Malformed, Matching, from_json, from_known

DATA_FACT = "data"  # in facts.json
CARD_FILES = ("card.html", "DATA_CARD.md")
DATASET, CHECKPOINT = "dataset", "model"  # kinds, as W&B calls them
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
    """A version of an artifact: files that are referred to and hashed, files that are uploaded, and what is known."""

    name: str
    kind: str
    references: Mapping[str, Path]  # by name in the artifact
    files: tuple[Path, ...] = ()
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


def _artifact_name(text: str) -> str:
    """A name that W&B takes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:LONGEST_NAME]
