"""The scores of a run's validation sets before its first step: what it forgot, and what it learnt, is told by them."""

from __future__ import annotations

from pathlib import Path

from trainer.data.tokens.dataset import Dataset
from trainer.evaluate.loss import TOKENS, LossEvaluator, Score
from trainer.machine.durable import write_json
from trainer.machine.json_file import Malformed, from_json, read_json
from trainer.ranks.mesh import Mesh
from trainer.track.tracker import Tracker

FILE = "before.json"


def score_before(run_dir: Path, evaluation: LossEvaluator, mesh: Mesh, tracker: Tracker | None) -> None:
    """Scores the sets with the weights that the run begins with, logs that as step 0, and keeps it.

    Every rank calls it. A run that goes on has been scored.
    """
    if mesh.from_main((run_dir / FILE).is_file()):
        return
    metrics = evaluation.run()
    if tracker is not None:
        tracker.log(step=0, tokens=0, metrics=metrics)
        write_json(run_dir / FILE, {dataset.name: score.loss for dataset, score in evaluation.latest})


def compare(run_dir: Path, scores: list[tuple[Dataset, Score]]) -> list[str]:
    """A line for each set that was scored before: its loss then and now."""
    try:
        before = from_json(dict[str, float], read_json(run_dir / FILE))
    except (FileNotFoundError, Malformed):
        return []
    lines = []
    for dataset, score in scores:
        if dataset.name in before:
            change = score.loss - before[dataset.name]
            word = "worse" if change > 0 else "better"
            then = f"{before[dataset.name]:.4f}"
            then = f"{then} nats per token" if score.unit == TOKENS else f"loss {then}"
            lines.append(f"{dataset.name}: {then} before, {score.loss:.4f} now: {abs(change):.4f} {word}")
    return lines
