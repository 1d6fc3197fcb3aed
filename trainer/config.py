"""The one schema of conf/: every key with its default, unit and a sentence. checks.py holds what must fit across keys.

Hydra composes YAML from conf/ onto these dataclasses (launch/compose.py), so an unknown key or a wrong type is an
error. `--help` reads the same fields. Nothing heavy is imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Optional


def knob(
    default: Any,
    text: str,
    unit: str = "",
    *,
    common: bool = False,
    choices: tuple[str, ...] = (),
    low: float = 0,
    high: float = math.inf,
) -> Any:
    """A configuration field: default, one sentence, unit.

    `common` puts it into `--help`; a value outside `choices`, or a number outside [low, high], is refused.
    """
    metadata = {"text": text, "unit": unit, "common": common, "choices": choices, "low": low, "high": high}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def part(kind: type) -> Any:
    """A nested section of the configuration."""
    return field(default_factory=kind)


@dataclass
class Run:
    """Identity of a run and its folder."""

    name: Optional[str] = knob(
        None, "Name; by default data-model-HASH, the hash of all that makes the run.", common=True
    )
    dir: Optional[str] = knob(None, "Run directory; by default runs/NAME. Everything of the run is in it.", common=True)
    lock_timeout_s: float = knob(
        60.0, "A run on another machine that gave no sign of life for so long is taken for dead.", "seconds", low=10.0
    )
    allow_change: bool = knob(False, "Resume although optimizer, schedule, train or the data changed; logged.")


@dataclass
class Model:
    """Shape of the decoder; sizes are named as in Hugging Face's LlamaConfig, experts as in its Qwen3MoeConfig."""

    name: str = knob("custom", "What the preset is called; part of the default run name.")
    init_from: Optional[str] = knob(
        None,
        "Where initial weights and sizes come from: a Hugging Face folder, a run directory or a checkpoint (step-N).",
        common=True,
    )
    vocab_size: Optional[int] = knob(None, "Tokens in the vocabulary; by default the dataset's.", "tokens", low=1)
    hidden_size: int = knob(256, "Width of the residual stream.", low=1)
    intermediate_size: int = knob(704, "Width of the SwiGLU feed-forward.", low=1)
    num_hidden_layers: int = knob(4, "Decoder blocks.", low=1)
    num_attention_heads: int = knob(4, "Query heads.", low=1)
    num_key_value_heads: int = knob(2, "Key and value heads; must divide num_attention_heads.", low=1)
    head_dim: Optional[int] = knob(None, "Width of a head; by default hidden_size / num_attention_heads.", low=1)
    rope_theta: float = knob(10000.0, "Base of the rotary frequencies.", low=1.0)
    rms_norm_eps: float = knob(1e-5, "Epsilon of RMSNorm.")
    tie_word_embeddings: bool = knob(False, "Share the embedding with the output head.")
    qk_norm: bool = knob(False, "RMSNorm on queries and keys, per head (Qwen3).")
    qkv_bias: bool = knob(False, "Biases on queries, keys and values (Qwen2).")
    initializer_range: Optional[float] = knob(
        None, "Standard deviation of initial matrices; by default 1/sqrt(inputs), and 1 for an untied embedding."
    )
    dropout: float = knob(
        0.0, "Dropout after embedding, attention and feed-forward; the same at every shape of run.", high=0.99
    )
    z_loss: float = knob(0.0, "Weight of the z-loss, mean of logsumexp(logits)^2 (PaLM); 0 is off.")
    loss_chunk: int = knob(2048, "Tokens whose logits are held at once by the loss.", "tokens", low=1)
    num_experts: int = knob(0, "Experts in the place of each feed-forward; 0: a dense model.")
    num_experts_per_tok: int = knob(2, "Experts that each token goes to.", low=1)
    moe_intermediate_size: int = knob(352, "Width of an expert; intermediate_size isn't used then.", low=1)
    norm_topk_prob: bool = knob(True, "Make the weights of a token's experts sum to 1.")
    router_aux_loss_coef: float = knob(
        0.01, "Weight of the load-balancing loss of each row; that is 1 where experts are chosen evenly."
    )
    router_z_loss_coef: float = knob(0.001, "Weight of the router's z-loss, mean of logsumexp(logits)^2 (ST-MoE).")


@dataclass
class TokenizerTrain:
    """How a tokenizer is trained."""

    vocab_size: int = knob(4096, "Vocabulary of the byte-level BPE trained on the input.", "tokens", common=True, low=1)
    sample_bytes: int = knob(64 * 2**20, "Most text that the tokenizer is trained on.", "bytes", low=1)


@dataclass
class Tokenizer:
    """Which tokenizer prepare uses."""

    path: Optional[str] = knob(
        None, "tokenizer.json, or a Hugging Face folder; by default one is trained.", common=True
    )
    end_of_text: Optional[str] = knob(None, "End-of-text token of the loaded tokenizer; found by itself if usual.")
    train: TokenizerTrain = part(TokenizerTrain)


@dataclass
class TrainingSet:
    """One dataset of a mixture."""

    path: str = knob("", "Folder of token shards, or an output of prepare.")
    weight: float = knob(1.0, "Share of the mixture, relative to the other weights.")


@dataclass
class ValidationSet:
    """One named validation set."""

    path: str = knob("", "Folder of token shards, or an output of prepare.")


@dataclass
class Data:
    """What prepare reads and writes, and what training reads."""

    name: str = knob("custom", "What the data are called; part of the default run name.")
    # prepare
    input: list[str] = knob([], "Files, folders or globs of text, .jsonl[.gz|.zst] or .tar of text.", common=True)
    include: list[str] = knob([], "File endings taken from folders, such as .py; by default all that are known.")
    exclude: list[str] = knob([], "Glob patterns of paths to leave out of folders.")
    output: Optional[str] = knob(None, "Folder that prepare writes train/ and validation/ to.", common=True)
    text_field: str = knob(
        "text", "Field of a .jsonl record, or member of a .tar sample, that holds the text.", common=True
    )
    licence: Optional[str] = knob(None, "Licence of the sources, written into the manifest.")
    tokenizer: Tokenizer = part(Tokenizer)
    validation_fraction: float = knob(0.01, "Share of documents held out, chosen by their hash.", common=True, high=0.5)
    deduplicate: bool = knob(True, "Drop exact duplicates of documents.")
    shuffle_documents: bool = knob(True, "Shuffle documents globally by (seed, hash).")
    shard_bytes: int = knob(256 * 2**20, "Text that goes into a shard, about.", "bytes", low=1)
    block_tokens: int = knob(2**18, "Tokens of whole documents in one sample of a shard, about.", "tokens", low=1)
    workers: Optional[int] = knob(None, "Processes that prepare uses; by default one per core.", low=1)
    # pretrain and evaluate
    path: Optional[str] = knob(None, "Folder of token shards to train on: an output of prepare.", common=True)
    train: dict[str, TrainingSet] = knob({}, "A mixture: data.train.NAME={path: DIR, weight: W}.", common=True)
    validation: dict[str, ValidationSet] = knob(
        {}, "Named validation sets: data.validation.NAME={path: DIR}.", common=True
    )
    sequence_length: int = knob(256, "Tokens in a row of training data.", "tokens", common=True, low=1)
    mask_documents: bool = knob(False, "Attention stays inside a document and positions restart.", common=True)
    shuffle_shards: int = knob(16, "Shards that form a window in which rows are shuffled.", "shards", low=1)
    verify_bytes: int = knob(
        16 * 2**30, "Datasets up to this size are hashed at the start of a run, shared out among ranks.", "bytes"
    )
    prefetch: int = knob(4, "Micro-batches read ahead of use.", low=1)


@dataclass
class Train:
    """Length, batch and numerics of the training."""

    steps: Optional[int] = knob(None, "Optimiser steps to train for (or train.tokens).", "steps", common=True, low=1)
    tokens: Optional[int] = knob(
        None, "Tokens to train for, rounded up to a step (or train.steps).", "tokens", common=True, low=1
    )
    stop_at: Optional[int] = knob(
        None, "Checkpoint and leave with 85 after this step; the schedule is unchanged.", common=True, low=1
    )
    batch_size: int = knob(16, "Global batch, over all ranks.", "sequences", common=True, low=1)
    micro_batch_size: Optional[int] = knob(
        None,
        "What a rank takes through the model at once; by default the most, up to 8, that divides its share. "
        "Set, micro-batches are the same at any number of ranks.",
        "sequences",
        common=True,
        low=1,
    )
    precision: str = knob("fp32", "Numbers of the forward and backward pass.", common=True, choices=("fp32", "bf16"))
    compile: bool = knob(False, "torch.compile each decoder block.", common=True)
    activation_checkpointing: str = knob(
        "none",
        "Recompute blocks in backward to save memory; selective keeps products and attention, the cheap rest it "
        "recomputes.",
        choices=("none", "full", "selective"),
    )
    gradient_clipping: float = knob(1.0, "Largest gradient norm; 0 is off.", common=True)
    deterministic: bool = knob(False, "Deterministic CUDA kernels, for bit-equal resumes there.")


@dataclass
class Optimizer:
    """The optimiser."""

    name: str = knob(
        "adamw", "Optimiser; muon is for the blocks' matrices, all else has AdamW.", choices=("adamw", "muon")
    )
    lr: float = knob(3e-4, "Peak learning rate; of muon's, AdamW's part.", common=True, high=10.0)
    beta1: float = knob(0.9, "Decay of AdamW's first moment.", high=0.9999999)
    beta2: float = knob(0.95, "Decay of AdamW's second moment.", high=0.9999999)
    eps: float = knob(1e-8, "Epsilon of AdamW.")
    weight_decay: float = knob(
        0.1, "Decoupled decay of matrices and embeddings; norms and biases have none.", high=10.0
    )
    muon_lr: float = knob(
        0.02,
        "Peak learning rate of muon's matrices: the spectral norm of an update, times sqrt(rows / columns) "
        "where that is above 1.",
        high=10.0,
    )
    muon_momentum: float = knob(0.95, "Decay of muon's momentum (Nesterov's).", high=0.9999999)
    muon_newton_schulz: str = knob(
        "gram",
        "How muon's five Newton-Schulz steps are taken: gram, in fp16, or in fp32 on a CPU without it; standard, in "
        "bf16.",
        choices=("gram", "standard"),
    )


@dataclass
class Schedule:
    """The learning rate over the run."""

    name: str = knob("cosine", "Shape after the warm-up.", choices=("cosine", "linear", "constant", "wsd"))
    warmup_steps: int = knob(100, "Linear warm-up of the learning rate.", "steps", common=True)
    min_ratio: float = knob(0.1, "Last learning rate, as a share of the peak.", high=1.0)
    decay_fraction: float = knob(0.2, "Last share of the run in which wsd decays.", high=1.0)


@dataclass
class Parallel:
    """How the run is spread over ranks."""

    zero_stage: int = knob(
        0, "DeepSpeed ZeRO: 0 replicates, 1 shards optimiser state, 2 gradients, 3 weights.", common=True, high=3
    )
    tensor: int = knob(1, "Ranks that share each layer; on one node.", common=True, low=1)
    sequence: int = knob(1, "Ranks that share each sequence (Ulysses).", common=True, low=1)
    expert: int = knob(1, "Ranks that share each layer's experts.", low=1)
    pipeline: int = knob(1, "Ranks that share the layers in turn; only 1, the refusal says why.", low=1)
    hpz: int = knob(
        1, "ZeRO++ hpZ: ranks, as a node's, that keep a second copy of stage 3's weights for backward; 1 is off.", low=1
    )
    offload: str = knob(
        "none",
        "What leaves the device between uses: optimiser state (ZeRO 1 to 3), or that and the weights (all; ZeRO 3).",
        choices=("none", "optimizer", "all"),
    )
    offload_device: str = knob("cpu", "Where it goes; nvme needs ZeRO 3 and libaio.", choices=("cpu", "nvme"))
    nvme_path: Optional[str] = knob(None, "Folder on a local NVMe drive of every node, for offload_device=nvme.")


@dataclass
class Checkpoint:
    """When checkpoints are written and which are kept."""

    every: int = knob(
        1000, "Steps between checkpoints; the last step has one always; 0: only that.", "steps", common=True
    )
    keep: int = knob(3, "Newest checkpoints kept.", common=True, low=1)
    keep_every: int = knob(0, "Keep also every checkpoint whose step this divides; 0 is off.", "steps")
    keep_best: bool = knob(False, "Keep also the checkpoint with the lowest loss on evaluate.watch.")
    asynchronous: bool = knob(
        True, "Train on while a checkpoint is written; off, each save waits until it is durable.", common=True
    )
    dir: Optional[str] = knob(
        None, "URL, as s3://BUCKET/RUN, that checkpoints are copied to as well and fetched from at a start."
    )
    step: Optional[int] = knob(None, "Step that evaluate, generate and export read; by default the newest whole.")


@dataclass
class Evaluate:
    """Evaluation during and after training."""

    every: int = knob(500, "Steps between evaluations; 0: never, not even at the end.", "steps", common=True)
    rows: int = knob(0, "Most rows of a validation set, from its start; 0 takes all.", "rows")
    micro_batch_size: int = knob(8, "Rows that a rank takes through the model at once.", "rows", low=1)
    watch: str = knob("validation", "Validation set that patience and keep_best look at.")
    patience: int = knob(0, "Stop after this many evaluations without a better loss; 0 is off.")
    bigram: bool = knob(True, "Print an interpolated bigram model's loss at the end, as a yardstick.")
    prompt: Optional[str] = knob("def", "Prompt continued at the end and logged; null for none.")
    prompt_tokens: int = knob(64, "Length of that continuation.", "tokens", low=1)


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
class Track:
    """Where metrics go."""

    every: int = knob(10, "Steps between logged lines.", "steps", common=True, low=1)
    wandb: Wandb = part(Wandb)


@dataclass
class Launch:
    """How ranks are started."""

    name: str = knob("local", "Launcher.", choices=("local",))
    processes: Optional[int] = knob(None, "Ranks on this machine; by default one per GPU, or one.", common=True, low=1)
    threads: Optional[int] = knob(None, "CPU threads per rank; by default cores / processes.", "threads", low=1)


@dataclass
class Pretrain:
    """Configuration of `banyan pretrain`, and what a run directory's config.yaml holds."""

    seed: int = knob(0, "Seed of weights, data order and dropout.", common=True, high=2**63 - 1)
    run: Run = part(Run)
    model: Model = part(Model)
    data: Data = part(Data)
    train: Train = part(Train)
    optimizer: Optimizer = part(Optimizer)
    schedule: Schedule = part(Schedule)
    parallel: Parallel = part(Parallel)
    deepspeed: dict[str, Any] = knob({}, "Merged last into the DeepSpeed configuration, for what has no key here.")
    checkpoint: Checkpoint = part(Checkpoint)
    evaluate: Evaluate = part(Evaluate)
    track: Track = part(Track)
    launch: Launch = part(Launch)


@dataclass
class Prepare:
    """Configuration of `banyan prepare`."""

    seed: int = knob(0, "Seed of the document shuffle.", common=True, high=2**63 - 1)
    data: Data = part(Data)


@dataclass
class EvaluateVerb:
    """Configuration of `banyan evaluate`."""

    run: Run = part(Run)
    data: Data = part(Data)
    checkpoint: Checkpoint = part(Checkpoint)
    evaluate: Evaluate = part(Evaluate)
    launch: Launch = part(Launch)


@dataclass
class Generate:
    """Configuration of `banyan generate`."""

    run: Run = part(Run)
    checkpoint: Checkpoint = part(Checkpoint)
    prompt: str = knob("", "Text to continue; taken as it is, no quoting for Hydra needed.", common=True)
    max_tokens: int = knob(128, "Most tokens to generate.", "tokens", common=True, low=1)
    temperature: float = knob(0.8, "Flatness of the sampling; 0 takes the likeliest token.", common=True, high=100.0)
    top_k: int = knob(0, "Sample among the k likeliest tokens; 0 is off.", common=True)
    top_p: float = knob(1.0, "Sample among the likeliest tokens that hold this probability.", common=True, high=1.0)
    seed: int = knob(0, "Seed of the sampling.", common=True, high=2**63 - 1)


@dataclass
class ExportSettings:
    """What export writes, and where."""

    output: Optional[str] = knob(None, "New folder to write; by default export/step-N in the run's.", common=True)
    dtype: str = knob("fp32", "Numbers of the written weights.", common=True, choices=("fp32", "bf16"))
    average_last: int = knob(1, "Write the mean of this many checkpoints, the last ones.", common=True, low=1)
    shard_bytes: int = knob(4 * 2**30, "Most bytes of weights in one file; a larger tensor has one alone.", low=1)


@dataclass
class Export:
    """Configuration of `banyan export`."""

    run: Run = part(Run)
    checkpoint: Checkpoint = part(Checkpoint)
    format: str = knob("hf", "What is written: hf, a folder that transformers loads.", common=True, choices=("hf",))
    export: ExportSettings = part(ExportSettings)


VERBS: dict[str, type] = {
    "prepare": Prepare,
    "pretrain": Pretrain,
    "evaluate": EvaluateVerb,
    "generate": Generate,
    "export": Export,
}
