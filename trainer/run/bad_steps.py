"""What becomes of bad steps (health.on_spike): skips are listed in the history, rewinds go back to a checkpoint.

history.json is written before anything else is done, so that a resume after a kill goes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.find import find_whole
from trainer.checkpoint.reader import CheckpointReader
from trainer.checkpoint.writer import CheckpointWriter
from trainer.config import Pretrain
from trainer.config.ramps import Ramps
from trainer.data.tokens.history import FILE, History, Rewind, read_history
from trainer.engine.loop import Progress
from trainer.engine.targets import Step
from trainer.errors import NonFiniteError, require
from trainer.machine.durable import write_json
from trainer.ranks.mesh import Mesh
from trainer.track.spike_record import REWOUND, SKIPPED

NAMED = 12  # steps that a line names at most


@dataclass
class BadSteps:
    """Minds the bad steps of a run. Every rank calls it, with the same steps.

    `restore` sets weights, moments and all else that a checkpoint holds, `open_steps` gives the batches from a position
    on, `say` tells whoever watches, `record` takes down a bad step and what is done about it; rank 0 writes.
    """

    config: Pretrain
    mesh: Mesh
    run_dir: Path
    history: History
    progress: Progress
    writer: CheckpointWriter
    restore: Callable[[CheckpointReader, int], None]
    open_steps: Callable[[int], Iterator[Step]]
    say: Callable[[str], None]
    record: Callable[[int, str], None] = lambda step, outcome: None

    def __call__(self, steps: list[int]) -> Iterator[Step] | None:
        """Does what is to be done about these steps; the batches to go on with after a rewind, else None."""
        if self.config.health.on_spike == "skip":
            self._list_skipped(steps)
            return None
        return self._rewind(steps[0])

    def _list_skipped(self, steps: list[int]) -> None:
        for step in steps:
            self.record(step, SKIPPED)
        self._write(self.history.with_skipped(steps))
        named = ", ".join(map(str, steps[:NAMED])) + (f" and {len(steps) - NAMED} more" if steps[NAMED:] else "")
        self._tell(
            f"bad step{'s' * (len(steps) > 1)} {named}: loss or gradient norm is a spike or not finite; skipped, "
            f'"banyan data at {self.run_dir} step={steps[0]}" shows the data'
        )
        most = max(2, self.config.health.window // 2)
        last = self.history.skipped[-most:]
        if len(last) == most and last[-1] - last[0] == most - 1:
            raise NonFiniteError(
                f"step {last[-1]}: {most} steps one after the other were bad and skipped, so that nothing is learnt; "
                "lower optimizer.lr, raise schedule.warmup_steps, or look at the data."
            )

    def _rewind(self, step: int) -> Iterator[Step]:
        health = self.config.health
        if len(self.history.rewinds) >= health.max_rewinds:
            raise NonFiniteError(
                f"step {step}: loss or gradient norm is a spike or not finite, after {len(self.history.rewinds)} "
                "rewinds; raise health.max_rewinds, lower optimizer.lr, or look at the data with "
                f'"banyan data at RUN_DIR step={step}".'
            )
        self.writer.settle()
        folder, _ = find_whole(self.run_dir, self.mesh)
        if folder is None:
            raise NonFiniteError(
                f"step {step}: loss or gradient norm is a spike or not finite, and there is no checkpoint "
                "to rewind to; lower checkpoint.every or optimizer.lr, or raise schedule.warmup_steps."
            )
        self.record(step, REWOUND)  # its documents are known while the history leads to them
        reader = CheckpointReader(folder)
        back = reader.stated("progress", Progress.from_json)
        rewind = Rewind(from_step=step, to_step=back.step, position=self.history.positions_of(step)[1])
        self._write(self.history.rewound(rewind, Ramps.of(self.config.train, self.config.data)))
        vars(self.progress).update(vars(back))
        self.progress.position = rewind.position
        self.restore(reader, optimizer_steps(self.history, back.step))
        self._tell(
            f"bad step {step}: loss or gradient norm is a spike or not finite; rewound to step {back.step} "
            f"({len(self.history.rewinds)} of {health.max_rewinds} rewinds), and the data in between is left out"
        )
        return self.open_steps(rewind.position)

    def _write(self, history: History) -> None:
        self.history = history
        self.mesh.main_finds(lambda: write_json(self.run_dir / FILE, history.to_json()))

    def _tell(self, line: str) -> None:
        if self.mesh.is_main:
            self.say(line)


def check_on_spike(config: Pretrain) -> None:
    """Refuses to skip steps of Muon where DeepSpeed takes the norm and orthogonalizes in one."""
    in_one = config.optimizer.name == "muon" and config.train.in_bf16 and config.parallel.zero_stage == 1
    require(
        config.health.on_spike != "skip" or not in_one,
        "health.on_spike=skip with optimizer=muon in bf16 at parallel.zero_stage=1: DeepSpeed's step can't be stopped "
        "there; use another stage, or health.on_spike=rewind.",
    )


def optimizer_steps(history: History, step: int) -> int:
    """How many steps an optimiser has taken after `step`: those that were skipped aren't among them."""
    return step - sum(skipped <= step for skipped in history.skipped)


def after_rewind(run_dir: Path, history: History, progress: Progress, ramps: Ramps, mesh: Mesh) -> History:
    """The history of a run that goes on from a checkpoint of `progress`, whose position may move: a start before may
    have been rewound to it, and have saved nothing since."""

    def find() -> list[int]:
        known = read_history(run_dir)
        later = known.rewinds[len(history.rewinds) :] if known is not None else []
        return [number for rewind in later if rewind.to_step == progress.step for number in vars(rewind).values()]

    found = mesh.main_finds(find)
    for place in range(0, len(found), 3):
        rewind = Rewind(*found[place : place + 3])
        history = history.rewound(rewind, ramps)
        progress.position = rewind.position
    return history
