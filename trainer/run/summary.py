"""The end of a run: final loss against the yardstick, a sample, the picture, and where everything is."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.config import Pretrain
from trainer.data.tokens.bigram import bigram_loss
from trainer.data.tokens.dataset import Dataset
from trainer.engine.loop import Progress
from trainer.evaluate.loss import Score
from trainer.evaluate.sampling import Sampling, continue_text, write_target
from trainer.evaluate.trained_model import load_model
from trainer.machine.durable import write_text
from trainer.machine.environment import as_stored
from trainer.model.hugging_face.folder import own_model
from trainer.model.hugging_face.heads import CAUSAL, SEQ2SEQ
from trainer.report.curves import draw_curves
from trainer.run import directory as run_directory
from trainer.run.before import compare
from trainer.track.energy import FILE as ENERGY
from trainer.track.energy import energy_in_words, read_account
from trainer.track.tracker import Tracker

MOST_SAMPLED_BYTES = 16e9  # of fp32 weights: minutes to read and check, at a gigabyte a second


def announce_end(
    run_dir: Path,
    config: Pretrain,
    progress: Progress,
    training: list[Dataset],
    scores: list[tuple[Dataset, Score]],
    parameters: int,
    tracker: Tracker,
    scale: str,
) -> None:
    """Prints what came out, keeps it as summary.txt, and logs the sample and the yardstick. Rank 0 calls it.

    `scale` is what the objective's losses are in.
    """
    lines = [""]
    if progress.out_of_patience:
        watched = config.evaluate.watch if "/" in config.evaluate.watch else f"{config.evaluate.watch} loss"
        lines.append(f"stopped early: no better {watched} for {config.evaluate.patience} evaluations")
    lines.append(f"trained {progress.step:,} steps on {progress.tokens:,} tokens")
    for dataset, score in scores:
        lines.append(f"{dataset.name}: {score.in_words()}")
        if (
            config.evaluate.bigram
            and config.model.head == CAUSAL
            and not dataset.is_uneven
            and not any(other.is_uneven for other in training)
            and not any(other.remote for other in training)  # nothing is fetched for a yardstick
        ):
            yardstick = bigram_loss(training, dataset, rows=score.tokens // dataset.sequence_length)
            tracker.log(
                step=progress.step,
                tokens=progress.tokens,
                metrics={f"eval/{dataset.name}/bigram_loss": yardstick},
            )
            side = "above" if yardstick >= score.loss else "below"
            difference = f"{abs(yardstick - score.loss):.4f} {side} ours"
            lines.append(f"  an interpolated bigram model: {yardstick:.4f} nats, {difference}")
    lines += compare(run_dir, scores)
    account = read_account(run_dir / ENERGY)
    if account is not None:
        lines.append(f"energy: {energy_in_words(account, config.track.energy)}")
    generates = config.model.head in (CAUSAL, SEQ2SEQ)
    if not generates or config.evaluate.prompt is None:
        pass
    elif (reason := too_large_to_sample(parameters)) is not None:
        lines.append(reason)
    else:
        sample = as_stored(config.evaluate.prompt) + sample_text(run_dir, config)
        tracker.text(step=progress.step, name="sample", text=sample)
        lines += ["", "sample:", *(f"  | {line}" for line in sample.splitlines()), ""]
    picture = draw_curves(run_dir, config.run.name, scale=scale)
    lines += [
        f"run directory  {run_dir}",
        f"metrics        {run_dir / 'metrics.jsonl'}",
        f"loss curves    {picture}",
        f'go on with     banyan generate run.dir={run_dir} prompt="..."'
        if generates
        else f"go on with     banyan export run.dir={run_dir}",
    ]
    write_text(run_dir / "summary.txt", "\n".join(lines) + "\n")
    for line in lines:
        tracker.note(line)


def too_large_to_sample(parameters: int) -> str | None:
    """Why no sample is made of a model: other ranks wait while rank 0 holds it whole, in fp32, in its memory."""
    size = 4 * parameters
    if size <= MOST_SAMPLED_BYTES and size <= psutil.virtual_memory().available / 2:
        return None
    return f"no sample: the weights take {size / 1e9:,.0f} GB in one process; banyan generate makes one"


def sample_text(run_dir: Path, config: Pretrain) -> str:
    """A continuation of evaluate.prompt by the newest checkpoint, on the CPU: the same at every ZeRO stage."""
    assert config.evaluate.prompt is not None
    model = load_model(
        own_model(config.model, run_dir),
        find_checkpoint(run_dir, None),
        torch.device("cpu"),
        torch.float32,
        adapt=config.adapt,
    )
    sampling = Sampling(max_tokens=config.evaluate.prompt_tokens, seed=config.seed)
    context = config.data.sequence_length
    tokenizer = run_directory.load_run_tokenizer(run_dir)
    if config.model.head == SEQ2SEQ:
        return "".join(write_target(model, tokenizer, config.evaluate.prompt, sampling))
    return "".join(continue_text(model, tokenizer, config.evaluate.prompt, sampling, context_length=context))
