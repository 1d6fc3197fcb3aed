"""A run around its training: identity, checkpoints, evaluation, tracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.alerts import Alerts
from trainer.config.energy import Energy
from trainer.config.knobs import knob, part


@dataclass
class Downloads:
    """What may be fetched from a network."""

    allow_download: bool = knob(
        False,
        "Fetch what hf://OWNER/NAME@REVISION names from the Hugging Face Hub (model.path, model.init_from, "
        "data.tokenizer.path, path): weights in safetensors and JSON, never code.",
    )


@dataclass
class Run(Downloads):
    """Identity of a run and its folder."""

    name: Optional[str] = knob(
        None,
        "Name; by default data-model-HASH, the hash of all that makes the run. Letters, digits, spaces and ._-+=,",
        common=True,
        is_name=True,
    )
    dir: Optional[str] = knob(None, "Run directory; by default runs/NAME. Everything of the run is in it.", common=True)
    lock_timeout_s: float = knob(
        60.0, "A run on another machine that gave no sign of life for so long is taken for dead.", "seconds", low=10.0
    )
    allow_change: bool = knob(False, "Resume although optimizer, schedule, train or the data changed; logged.")


MOST_WRITERS_AT_STAGE_0 = 4


@dataclass
class Checkpoint:
    """When checkpoints are written and which are kept."""

    every: int | str = knob(
        1000,
        "Steps between checkpoints; the last step has one always; 0: only that; auto: as loses least, by how long one "
        "holds training up and by mtbf_hours.",
        "steps",
        common=True,
    )
    mtbf_hours: float = knob(
        6000.0,
        "Mean time between failures of a node, for checkpoint.every=auto; the default is reasoned in docs/SCALE.md.",
        "hours",
        low=0.001,
        later=True,
    )
    keep: int = knob(3, "Newest checkpoints kept.", common=True, low=1)
    keep_every: int = knob(0, "Keep also every checkpoint whose step this divides; 0 is off.", "steps")
    keep_best: bool = knob(False, "Keep also the checkpoint with the lowest loss on evaluate.watch.")
    asynchronous: bool = knob(
        True, "Train on while a checkpoint is written; off, each save waits until it is durable.", common=True
    )
    writers: Optional[int] = knob(
        None,
        "Files that the ranks' tensors are written to, each by ranks that follow each other: as many as nodes gives a "
        "file per node; 0: every rank has its own, the default; at ZeRO stage 0, where every rank reads all, "
        f"{MOST_WRITERS_AT_STAGE_0} at most.",
        "files",
        later=True,
    )
    encrypt: bool = knob(
        False, "Encrypt weights and moments in checkpoints, with the key of data.encryption.", later=True
    )
    dir: Optional[str] = knob(
        None, "URL, as s3://BUCKET/RUN, that checkpoints are copied to as well and fetched from at a start."
    )
    fork_from: Optional[str] = knob(
        None, "Begin a new run with all the state of another: RUN_DIR for its newest checkpoint, or RUN_DIR@STEP."
    )
    step: Optional[int] = knob(None, "Step that evaluate, generate and export read; by default the newest whole.")
    ema: bool = knob(False, "Evaluate, generate and export take the moving average of the weights (train.ema).")


def writers_of(checkpoint: Checkpoint, zero_stage: int) -> int:
    """Files that ranks share: checkpoint.writers, or its default at that stage; 0 is a file for each rank.

    An encrypted file is written from front to back, and so by one rank.
    """
    if checkpoint.encrypt:
        return 0
    if checkpoint.writers is not None:
        return checkpoint.writers
    return MOST_WRITERS_AT_STAGE_0 if zero_stage == 0 else 0


@dataclass
class Evaluate:
    """Evaluation during and after training."""

    every: int = knob(500, "Steps between evaluations; 0: never, not even at the end.", "steps", common=True)
    at_start: bool = knob(
        False, "Evaluate before the first step as well, and say at the end what became of each set.", later=True
    )
    rows: int = knob(
        4096, "Most rows of a validation set, from its start, and it is said where there are more; 0 takes all.", "rows"
    )
    micro_batch_size: int = knob(8, "Rows that a rank takes through the model at once.", "rows", low=1)
    split_by: str = knob(
        "both",
        "Tell the bits per byte and tokens per byte of validation sets by each document's source, language, or both.",
        choices=("both", "source", "language", "none"),
        later=True,
    )
    test: bool = knob(False, "Score the test set, data.path/test, once: when training has ended.")
    watch: str = knob(
        "validation", "What patience and keep_best look at: a validation set's loss, or TASK/METRIC of evaluate.tasks."
    )
    patience: int = knob(0, "Stop after this many evaluations without a better loss; 0 is off.")
    bigram: bool = knob(True, "Print an interpolated bigram model's loss at the end, as a yardstick.")
    prompt: Optional[str] = knob("def", "Prompt continued at the end and logged; null for none.")
    prompt_tokens: int = knob(64, "Length of that continuation.", "tokens", low=1)
    prompts: list[str] = knob(
        [], "Prompts answered at each evaluation, by the likeliest tokens, and logged to RUN/samples.jsonl.", later=True
    )
    as_chat: bool = knob(
        True,
        "Ask evaluate.prompts as a user's messages where the tokenizer has a chat template; else they are continued.",
        later=True,
    )
    tasks: list[str] = knob(
        [],
        "Tasks to judge by: lm-evaluation-harness's, those of evaluate.task_dir, or Banyan's own (docs/EVALUATE.md).",
        common=True,
    )
    tasks_every: int = knob(
        1000, "Steps between judgements by evaluate.tasks while training; the last has one.", "steps", common=True
    )
    task_dir: Optional[str] = knob(
        None, "Folder with task files of your own, or of lm-evaluation-harness's kind.", common=True
    )
    task_documents: int = knob(0, "Most documents of each task, from its start; 0 takes all.", "documents")
    output: Optional[str] = knob(
        None, "Folder for results.json and samples; by default in the run's, evaluations/step-N.", common=True
    )
    batch_tokens: int = knob(
        4096, "Tokens of tasks, with padding, that a rank takes through the model at once.", "tokens", low=1
    )
    sandbox: Optional[str] = knob(
        None,
        "Command that runs the programs of tasks for code, given on standard input or as {file}; by default none runs.",
        later=True,
    )
    sandbox_seconds: float = knob(
        10.0, "Longest that a program may run there.", "seconds", low=0.1, high=3600.0, later=True
    )
    sandbox_memory_mib: int = knob(
        2048, "Most address space of each of its processes; 0: no limit here.", "MiB", later=True
    )
    bootstrap: int = knob(1000, "Bootstrap resamples behind intervals and errors; 0: none.", "resamples", high=1e6)


@dataclass
class Health:
    """What a run is watched for."""

    hang_timeout_s: float = knob(
        600.0,
        "A run in which no rank gets on for so long ends, naming who is to blame, and can be started again; 0 is off. "
        "Loading, a start's first step and saving may take longer.",
        "seconds",
    )
    on_spike: str = knob(
        "log",
        "What is done about a step whose loss or gradient norm is a spike or isn't finite. log: say a spike, and end "
        "at what isn't finite; skip: leave weights and moments as they are; rewind: go back to the checkpoint before, "
        "and leave out the data in between.",
        choices=("log", "skip", "rewind"),
        later=True,
    )
    sigma: float = knob(
        6.0,
        "A loss or gradient norm is a spike above the mean plus so many standard deviations.",
        low=1.0,
        high=1e6,
        later=True,
    )
    window: int = knob(
        128,
        "Steps before it that a step is compared with, once half of them are there.",
        "steps",
        low=4,
        high=1e6,
        later=True,
    )
    max_rewinds: int = knob(
        3, "Rewinds of a run; it ends with exit code 3 where it would need one more.", high=1e6, later=True
    )
    recheck: bool = knob(
        False,
        "Compute the losses of a bad step again and compare bits, to tell a faulty device from faulty mathematics; a "
        "wait for the device at every step.",
        later=True,
    )
    layers_every: int = knob(
        0, "Steps between rows of RUN/layers.jsonl, statistics of each layer; 0 is off.", "steps", later=True
    )
    timing_every: int = knob(
        5, "Steps over which ranks' times are compared, to name one that is slow; 0 is off.", "steps", later=True
    )


@dataclass
class Wandb:
    """Weights & Biases."""

    mode: str = knob(
        "auto",
        "auto is online with a key, else offline.",
        common=True,
        choices=("auto", "online", "offline", "disabled"),
    )
    project: str = knob("banyan", "W&B project.")
    entity: Optional[str] = knob(None, "W&B team or user.")
    group: Optional[str] = knob(None, "W&B group.")
    tags: list[str] = knob([], "W&B tags.")
    init_timeout_s: float = knob(10.0, "Longest wait for the W&B server before going offline.", "seconds", high=600.0)


@dataclass
class WandbTrack:
    """Where verbs that don't train record what they have made."""

    wandb: Wandb = part(Wandb)


@dataclass
class Track:
    """Where metrics go."""

    every: int = knob(10, "Steps between logged lines.", "steps", common=True, low=1)
    console: str = knob(
        "auto",
        "auto is a progress bar on a terminal, a line for each logged step elsewhere; quiet prints neither, only how a "
        "run begins and ends, and what goes wrong.",
        common=True,
        choices=("auto", "quiet"),
        later=True,
    )
    tensorboard: bool = knob(False, "Write TensorBoard event files to RUN/tensorboard as well.", common=True)
    spike_documents: int = knob(
        10,
        "Documents of a spike that are logged with it, by name, those of its worst rows first; 0: none.",
        "documents",
        high=1000,
        later=True,
    )
    wandb: Wandb = part(Wandb)
    alerts: Alerts = part(Alerts)
    energy: Energy = part(Energy)
