"""Which rows of a data set a run has taken, and at which steps it read a document: computed from its order of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Pretrain
from trainer.data.remote.left_out import read_left_out
from trainer.data.tokens.dataset import open_dataset
from trainer.data.tokens.history import History
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.order import Shuffle, consumed
from trainer.data.tokens.packing import row_packing
from trainer.data.tokens.row_positions import positions_of_rows, rows_with
from trainer.run.trace.found import DocumentReading, TakenRows, TracedDocument


@dataclass(frozen=True)
class ReadRun:
    """A run as far as it is known what it read: its configuration, its history, and the last step that it took."""

    run_dir: Path
    config: Pretrain
    history: History
    step: int

    @property
    def stop(self) -> int:
        """The position after the last row that it took."""
        return self.history.position_after(self.step)


def rows_taken(run: ReadRun) -> Iterator[TakenRows]:
    """What the run has taken of each data set, those of which it took nothing left out."""
    rows = consumed(run.history.segments, run.stop)
    names = {share.fingerprint: name for each in run.history.segments for name, share in each.shares.items()}
    for fingerprint, count in rows.items():
        if count:
            first, last = _ends(run, fingerprint)
            yield TakenRows(names[fingerprint], fingerprint, count, first, last)


def _ends(run: ReadRun, fingerprint: str) -> tuple[int, int]:
    """The first and the last step that took a row of a data set; of rows that a rewind left out, the next."""
    ends = [*(segment.first for segment in run.history.segments[1:]), run.stop]
    positions = []
    for segment, end in zip(run.history.segments, ends, strict=True):
        if segment.first >= min(end, run.stop):
            continue
        counters = segment.counters_at(min(end, run.stop))
        for name, share in segment.shares.items():
            if share.fingerprint == fingerprint and counters[name] > share.start:
                positions += [
                    segment.position_after(name, counter) - 1 for counter in (share.start + 1, counters[name])
                ]
    steps = [_step_near(run, position) for position in (min(positions), max(positions))]
    return steps[0], steps[1]


def _step_near(run: ReadRun, position: int) -> int:
    return run.history.step_of(position) or next(
        stretch.step + 1 for stretch in run.history.stretches if stretch.position > position
    )


def document_readings(
    run: ReadRun, documents: Sequence[TracedDocument], manifests: dict[str, Manifest]
) -> Iterator[DocumentReading]:
    """When the run has read each of the documents. InputError where the order can't be computed from what is here."""
    left_out = {row.position for row in read_left_out(run.run_dir)}
    taken = consumed(run.history.segments, run.stop)
    for document in documents:
        if not taken.get(document.fingerprint):
            continue
        manifest = manifests[document.fingerprint]
        dataset = open_dataset(
            manifest.name,
            str(manifest.folder),
            key="data.path",
            split="train",
            sequence_length=run.config.data.sequence_length,
            packing=row_packing(run.config.data, run.config.seed),
        )
        number = next(n for n, shard in enumerate(manifest.shards) if shard.file == Path(document.shard).name)
        rows = rows_with(dataset, number, document.start, document.stop)
        shuffle = Shuffle(dataset.rows, seed=run.config.seed, window=run.config.data.shuffle_shards)
        found = positions_of_rows(run.history.segments, shuffle, document.fingerprint, rows, stop=run.stop)
        by_step = [(run.history.step_of(position), position) for position in found.tolist() if position not in left_out]
        read = [(step, position) for step, position in by_step if step is not None and step <= run.step]
        steps = tuple(sorted({step for step, _ in read}))
        if steps:
            skipped = tuple(step for step in steps if step in run.history.skipped)
            positions = tuple(position for _, position in read)
            yield DocumentReading(document.xxh3, document.fingerprint, steps, positions, skipped)
