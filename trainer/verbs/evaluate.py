"""`banyan evaluate`: loss, perplexity and bits per byte of a checkpoint on token shards; or what it makes of tasks.

banyan evaluate run.dir=runs/NAME                                      the run's own validation sets
banyan evaluate run.dir=runs/NAME data.path=DIR                        any token shards of the same tokenizer
banyan evaluate run.dir=runs/NAME evaluate.tasks=[arc_easy,piqa]       tasks; path=HF_FOLDER in the place of a run
banyan evaluate run.dir=runs/NAME audit=memorisation                   what it knows by heart, and whose that is
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.fragment import kind_of_weights
from trainer.config import Data, EvaluateVerb
from trainer.config.values import check_values
from trainer.data.tokens.dataset import Dataset, check_run_tokenizer, open_dataset, open_validation
from trainer.data.tokens.packing import row_packing
from trainer.engine.bf16 import autocast
from trainer.errors import ConfigError, require
from trainer.evaluate.loss import TOKENS, Score, cut_in_words, score
from trainer.evaluate.trained_model import load_model
from trainer.objective.build import build_objective, check_datasets, members_of
from trainer.ranks.mesh import join
from trainer.run.directory import log_to_file, read_config, require_run_dir
from trainer.run.judge import judge_by_tasks
from trainer.run.memorisation import audit_memorisation
from trainer.run.open import check_shards
from trainer.run.recorded import record_losses
from trainer.track.metrics import perplexity


def main(config: EvaluateVerb) -> int:
    """Judges the model by tasks, where there are some, or scores it on every set; the exit code."""
    check_values(config)
    if config.audit is not None:
        require(not config.evaluate.tasks, f"audit={config.audit} and evaluate.tasks: ask for one at a time.")
        return audit_memorisation(config)
    if config.evaluate.tasks:
        return judge_by_tasks(config)
    return score_losses(config)


def score_losses(config: EvaluateVerb) -> int:
    """Scores the checkpoint on every set and prints a line for each."""
    require(config.path is None, f"path={config.path}: give evaluate.tasks; losses on token shards are of run.dir.")
    run_dir = require_run_dir(config.run.dir)
    run = read_config(run_dir)
    mesh = join()
    log_to_file(run_dir, mesh.rank)
    folder = mesh.main_finds(lambda: find_checkpoint(run_dir, config.checkpoint.step))
    sets = open_sets(config.data, run.data, members_of(run.objective))
    check_datasets(run.objective, sets)
    for dataset in sets:
        check_run_tokenizer(dataset, run_dir / "tokenizer" / "tokenizer.json")
    check_shards(sets, config.data.verify_bytes, mesh)

    dtype = torch.bfloat16 if run.has_bf16_weights else torch.float32
    model = load_model(run.model, folder, mesh.device, dtype, kind=kind_of_weights(config.checkpoint), adapt=run.adapt)
    if run.autocasts:
        autocast(model, mesh.device)

    if mesh.is_main:
        print(f"{folder}")
    scores: dict[str, Score] = {}
    for dataset in sets:
        objective = build_objective(run.objective, run.data, dataset.manifest, seed=run.seed)
        scores[dataset.name] = result = score(objective, model, dataset, config.evaluate, mesh)
        if mesh.is_main:
            if cut := cut_in_words(dataset, config.evaluate):
                print(cut)
            print(f"{dataset.name}: {_in_words(result)} of {dataset.manifest.folder})", flush=True)
            for line in _by_label(result):
                print(line, flush=True)
    if mesh.is_main:
        record_losses(folder, {name: dataclasses.asdict(result) for name, result in scores.items()}, config.track.wandb)
    mesh.leave()
    return 0


def _in_words(result: Score) -> str:
    """To six digits, without the last bracket."""
    if result.unit != TOKENS:
        shown = ((name, value) for name, value in result.measures.items() if not _is_by_label(name))
        measures = "".join(f", {name} {value:.6f}" for name, value in shown)
        return f"loss {result.loss:.6f}{measures} ({result.tokens:,} {result.unit}"
    bits = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.6f} bits per byte"
    loss, tokens = result.loss, result.tokens
    return f"{loss:.6f} nats per token, perplexity {perplexity(loss):.4f}{bits} ({tokens:,} tokens"


def _is_by_label(measure: str) -> bool:
    """Whether it is a label's, such as f1/spam, and so in the table; rewards/accuracies isn't."""
    return measure.startswith(("precision/", "recall/", "f1/"))


def _by_label(result: Score) -> list[str]:
    """Precision, recall and F1 of each label, a line for each; none where nothing is labelled."""
    names = [name.removeprefix("f1/") for name in result.measures if name.startswith("f1/")]
    width = max(map(len, names), default=0)
    lines = [f"  {'':{width}}  precision    recall        f1"] if names else []
    for name in names:
        figures = (result.measures[f"{figure}/{name}"] for figure in ("precision", "recall", "f1"))
        lines.append(f"  {name:{width}}  " + "  ".join(f"{figure:8.6f}" for figure in figures))
    return lines


def open_sets(asked: Data, trained_on: Data, members: tuple[str, ...]) -> list[Dataset]:
    """data.path (its validation part if prepare wrote one), or data.validation, or else the run's validation sets."""
    if asked.path and not asked.validation:
        name = Path(asked.path).name
        return [
            open_dataset(
                name,
                asked.path,
                key="data.path",
                split="validation",
                sequence_length=trained_on.sequence_length,
                packing=row_packing(trained_on, seed=0),
                members=members,
            )
        ]
    chosen = dataclasses.replace(trained_on, validation=asked.validation) if asked.validation else trained_on
    sets = open_validation(chosen, members)
    if not sets:
        raise ConfigError("the run has no validation set: give data.path=DIR with token shards.")
    return sets
