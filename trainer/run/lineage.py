"""What a run's lineage names: the prepared data that it reads, and its newest checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint.complete import COMPLETE, read_complete
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.data.tokens.manifest import FILE, Manifest, output_of
from trainer.errors import InputError
from trainer.track.lineage import DataReference


def data_references(manifests: Sequence[Manifest]) -> list[DataReference]:
    """The outputs of prepare that datasets are in, in their order."""
    found: dict[Path, list[Manifest]] = {}
    for manifest in manifests:
        found.setdefault(output_of(manifest.folder), []).append(manifest)
    return [
        DataReference(
            name=inside[0].name,
            folder=str(output),
            fingerprints={
                (each.folder.resolve() / FILE).relative_to(output).as_posix(): each.fingerprint for each in inside
            },
            documents=sum(each.documents for each in inside),
            tokens=sum(each.tokens for each in inside),
        )
        for output, inside in found.items()
    ]


def newest_complete(run_dir: Path) -> tuple[Path, int] | None:
    """The file COMPLETE of the newest checkpoint that has a good one, with its step; no other file is looked at."""
    for step in reversed(list_steps(run_dir)):
        folder = folder_of(run_dir, step)
        with contextlib.suppress(InputError):
            read_complete(folder)
            return folder / COMPLETE, step
    return None
