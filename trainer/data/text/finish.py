"""The last stage of prepare: the manifests, then the last word on the plan, then what was stored on the way goes."""

from __future__ import annotations

import datetime
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from trainer.config import Prepare
from trainer.data.text.corpus import Corpus
from trainer.data.text.plan import FILE as PLAN_FILE
from trainer.data.text.plan import (
    LAYOUT,
    PARTIAL,
    PreparationPlan,
    deciding_settings,
    read_progress,
    write_plan,
)
from trainer.data.text.shard_job import Written
from trainer.data.text.sources import Source
from trainer.data.text.workers import Work
from trainer.data.tokens.manifest import Manifest, ModelRecord, SourceGroup, write_manifest
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.machine.credentials import masked
from trainer.machine.sealing.keyring import read_envelope


@dataclass(frozen=True)
class Finish(Work[Path, None]):
    """Writes the manifests and the last word on the plan, and tidies up."""

    config: Prepare
    output: Path
    sources: tuple[Source, ...]
    plan: PreparationPlan
    corpus: Corpus
    tokenizer: Tokenizer
    written: dict[str, list[Written]]
    models: dict[str, ModelRecord] = field(default_factory=dict)

    def note(self, item: Path) -> Path:
        """The plan, which says that it is finished."""
        return item / PLAN_FILE

    def is_done(self, item: Path) -> bool:
        """Whether somebody has tidied up, which comes after the last word."""
        return not (item / PARTIAL / LAYOUT).exists()

    def __call__(self, item: Path) -> None:
        """Makes the output whole."""
        partial = item / PARTIAL
        if read_progress(item, self.plan) != "finished":
            self._write_record(item, partial)
            for split in reversed(self.written):  # train's manifest comes last
                self.tokenizer.save(item / split / "tokenizer", scratch=partial)
                write_manifest(self._manifest(item / split), scratch=partial)
            write_plan(item, self.plan, finished=True)
        shutil.rmtree(partial, ignore_errors=True)

    def _write_record(self, output: Path, partial: Path) -> None:
        """Keeps what was cleaned, what is near to something else, and what was taken out of documents."""
        clean = self.config.data.clean
        names = [source.name for source in self.sources]
        if clean.stages:
            from trainer.data.clean.record import write_cleaning_record

            write_cleaning_record(output, partial, self.corpus.read.records_before, names, clean)
        if self.config.data.near_duplicates:
            from trainer.data.near.find import write_near_record

            write_near_record(output, self.corpus.read.store, self.config.data.near)
        if self.config.data.repeated_paragraphs:
            from trainer.data.revise.record import write_revision_record

            revised = self.corpus.stored
            write_revision_record(
                output, revised.store.folder, len(revised.items), names, clean.rejected_bytes, scratch=partial
            )

    def _manifest(self, folder: Path) -> Manifest:
        envelope = read_envelope(self.output)
        return manifest_of(
            folder,
            self.config.data.name,
            self.tokenizer,
            self.sources,
            settings={
                **({"changed": self.corpus.changed} if self.corpus.changed else {}),
                **({"domains": self.corpus.domains} if self.corpus.domains else {}),
                **deciding_settings(self.config, self.models),
            },
            shards=tuple(written.shard for written in self.written[folder.name]),
            labels=self.corpus.labels,
            rejected=self.corpus.rejected,
            documents_read=self.corpus.documents_read,
            models=self.models,
            encryption=envelope.keys if envelope else (),
        )


def manifest_of(
    folder: Path, name: str, tokenizer: Tokenizer, sources: Iterable[Source], *, settings: dict[str, Any], **facts: Any
) -> Manifest:
    """Of what this command makes of `sources`, those of one input side by side; `facts` are its other fields."""
    groups = groupby(sources, key=lambda source: (source.given, source.licence))
    return Manifest(
        folder=folder,
        name=name,
        dtype=tokenizer.dtype,
        tokenizer_name=tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text_id,
        special_ids=tokenizer.special_ids,
        sources=tuple(
            SourceGroup(given, licence, tuple(source.name for source in group)) for (given, licence), group in groups
        ),
        prepared={
            "command": [masked(typed) for typed in sys.argv],
            "version": installed_version(),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **settings,
        },
        **facts,
    )


def installed_version() -> str:
    """Banyan's version, if it's installed."""
    try:
        return version("banyan-train")
    except PackageNotFoundError:
        return "not installed"
