"""Keeps account of rows that are left out (data.on_bad_shard=skip): in the history, the metrics and a listing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path

from trainer.checkpoint.reader import CheckpointReader
from trainer.data.remote.left_out import FILE as LISTING
from trainer.data.remote.left_out import LeftOutRow, RowsLeftOut, read_left_out, write_left_out
from trainer.data.tokens.history import FILE, History, LeftOutShard
from trainer.engine.hooks import Hook
from trainer.engine.loop import Progress
from trainer.machine.durable import write_json
from trainer.ranks.mesh import Mesh


class LeftOutRows(Hook):
    """Of all ranks, the rows that training has come by without them. Rank 0 writes.

    `history` gives the run's history and `keep` takes it, with what was left out.
    """

    def __init__(
        self,
        mesh: Mesh,
        run_dir: Path,
        progress: Progress,
        left_out: RowsLeftOut,
        *,
        history: Callable[[], History],
        keep: Callable[[History], None],
        say: Callable[[str], None],
    ) -> None:
        self._mesh, self._run_dir, self._progress, self._left_out = mesh, run_dir, progress, left_out
        self._history, self._keep, self._say = history, keep, say
        self._rows: set[LeftOutRow] = set()

    def begin(self, reader: CheckpointReader | None) -> None:
        """Takes up the listing of what was left out before the run's position; what came later is done again."""
        listed: list[list[int | str]] = []
        if self._mesh.is_main:
            before = read_left_out(self._run_dir)
            listed = [list(astuple(row)) for row in before if row.position < self._progress.position]
            if before:
                write_left_out(self._run_dir, [LeftOutRow(*row) for row in listed])  # type: ignore[arg-type]
        self._rows = {LeftOutRow(*row) for row in self._mesh.from_main(listed)}  # type: ignore[arg-type]

    def collect(self) -> None:
        """Brings the account up to date. Every rank calls it."""
        own = set(self._left_out.take_before(self._progress.position)) - self._rows
        mine = [list(astuple(row)) for row in sorted(own)]
        if self._mesh.first("some" if mine else None) is None:
            return
        new = {LeftOutRow(*row) for rows in self._mesh.gather(mine) for row in rows} - self._rows
        self._rows |= new
        history = replace(self._history(), left_out=_by_shard(self._rows))
        self._keep(history)
        if self._mesh.is_main and new:
            write_left_out(self._run_dir, self._rows)
            write_json(self._run_dir / FILE, history.to_json())
            for shard in _by_shard(new):
                self._say(
                    f"left out {shard.rows:,} row{'s' * (shard.rows > 1)} of {shard.dataset}'s {shard.file} "
                    f"(data.on_bad_shard=skip), positions {shard.first:,} to {shard.last:,}; all are listed in "
                    f"{self._run_dir / LISTING}"
                )

    def metrics(self) -> dict[str, float]:
        """How many there are, of the whole run."""
        self.collect()
        return {"data/left_out_rows": float(len(self._rows))}


def _by_shard(rows: set[LeftOutRow]) -> list[LeftOutShard]:
    """Rows added up by shard, in the order of their first."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in sorted(rows):
        found.setdefault((row.dataset, row.file), []).append(row.position)
    return [LeftOutShard(*shard, len(positions), positions[0], positions[-1]) for shard, positions in found.items()]
