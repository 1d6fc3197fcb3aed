"""How the model is trained: length, batch, numerics, optimiser, schedule, layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.knobs import knob
from trainer.config.optimizers import OPTIMIZERS

AUTO = "auto"
"""Of keys of train: what a run settles when it begins. Precision and micro-batches it then keeps."""


@dataclass
class BatchStage:
    """Steps of fewer sequences, as a run begins."""

    until_tokens: int = knob(0, "Tokens of the run up to which it holds: the step that reaches them is its last.")
    batch_size: int = knob(0, "Sequences of a step until then.", "sequences")


@dataclass
class Train:
    """Length, batch and numerics of the training."""

    steps: Optional[int] = knob(None, "Optimiser steps to train for (or train.tokens).", "steps", common=True, low=1)
    tokens: Optional[int] = knob(
        None,
        "Tokens to train for, rounded up to a step (or train.steps); the same if the batch size changes at a resume.",
        "tokens",
        common=True,
        low=1,
    )
    epochs: Optional[float] = knob(
        None,
        "Passes over all training rows, as 2 or 0.5, rounded up to a step (or train.steps, train.tokens).",
        "passes",
        common=True,
        later=True,
    )
    stop_at: Optional[int] = knob(
        None, "Checkpoint and leave with 85 after this step; the schedule is unchanged.", common=True, low=1
    )
    batch_size: int = knob(16, "Global batch, over all ranks.", "sequences", common=True, low=1)
    batch_ramp: dict[str, BatchStage] = knob(
        {},
        "Smaller batches first: train.batch_ramp.NAME={until_tokens: N, batch_size: B}, up to train.batch_size.",
        later=True,
    )
    # Not Optional[int | str]: that is cached under a key of no order, and another library may have had str first.
    micro_batch_size: int | str | None = knob(
        None,
        "What a rank takes through the model at once; by default the most, up to 8, that divides its share; on a "
        "GPU up to 32,768 tokens that fit its memory. "
        "Set, micro-batches are the same at any number of ranks; auto measures which is fastest of those that fit.",
        "sequences",
        common=True,
        low=1,
    )
    precision: str = knob(
        AUTO,
        "Numbers of forward and backward. auto: bf16 where all devices multiply it, else fp32; kept for the run. "
        "fp8: bf16, with the blocks' products in float8.",
        common=True,
        choices=(AUTO, "fp32", "bf16", "fp8"),
    )
    compile: bool | str = knob(
        AUTO, "torch.compile each decoder block, and the loss; auto: on a GPU that can.", common=True, choices=(AUTO,)
    )
    merge_products: bool | str = knob(
        AUTO,
        "Multiply by the matrices of queries, keys and values at once, and of gate and up; auto: where that is free, "
        "in compiled blocks of weights in fp32 that a GPU multiplies in bf16.",
        choices=(AUTO,),
        later=True,
    )
    fp8_head: bool = knob(
        False,
        "Take the head's logits and the gradient of its states in float8, on GPUs since Ada; its own gradient stays.",
        later=True,
    )
    activation_checkpointing: str = knob(
        "none",
        "Recompute blocks in backward to save memory; selective keeps products and attention, the cheap rest it "
        "recomputes.",
        choices=("none", "full", "selective"),
    )
    gradient_clipping: float = knob(1.0, "Largest gradient norm; 0 is off.", common=True)
    ema: Optional[float] = knob(
        None,
        "Keep a moving average of the weights with this decay, as 0.999; checkpoint.ema reads it.",
        low=0.0,
        high=0.9999999,
        later=True,
    )
    profile: list[int] = knob(
        [],
        "Steps [FIRST,LAST] that torch's profiler traces into RUN/profile, with the dearest operators.",
        "steps",
        low=1,
        later=True,
    )
    profile_ranks: list[int] = knob([], "Ranks that are profiled; by default every one.", later=True)
    deterministic: bool = knob(False, "Deterministic CUDA kernels, for bit-equal resumes there.")

    @property
    def in_bf16(self) -> bool:
        """Whether activations are in bf16, and products of them, once the precision is settled."""
        return self.precision in ("bf16", "fp8")


@dataclass
class ObjectiveSettings:
    """What is learnt from a row."""

    name: str = knob(
        "causal",
        "causal: each token from those before it; masked: tokens that were replaced; seq2seq: a target from a source; "
        "classify: a text's label; tag: its words'; dpo, simpo, orpo, reward: the better of two answers; "
        "distill: what a teacher says.",
        choices=("causal", "masked", "seq2seq", "classify", "tag", "dpo", "simpo", "orpo", "reward", "distill"),
        later=True,
    )
    noise: float = knob(
        0.15, "Share of the tokens that are masked, or with seq2seq dropped in spans.", low=0.001, high=0.9, later=True
    )
    mean_span: float = knob(3.0, "Mean length of the spans that seq2seq drops.", "tokens", low=1.0, later=True)
    spans: Optional[bool] = knob(
        None,
        "Whether seq2seq learns spans that it drops, rather than pairs; by default of data that are plain text.",
        later=True,
    )
    whole_words: bool = knob(True, "Mask whole words, where the tokens show them.", later=True)
    mask_token: Optional[str] = knob(
        None, "The tokenizer's mask; by default [MASK] or the like, or an id above its vocabulary.", later=True
    )
    labels: list[str] = knob([], "Labels of classify and tag in their order; the data say them.", later=True)
    class_weights: dict[str, float] = knob({}, "Weight of a label in the loss, by name; 1 for all others.", later=True)
    beta: float = knob(
        0.1,
        "Of dpo, simpo and orpo: how much the difference of two answers counts (simpo's usual one is 2).",
        later=True,
    )
    label_smoothing: float = knob(
        0.0, "Of dpo and simpo: the share of pairs whose labels are taken to be wrong.", high=0.5, later=True
    )
    loss: str = knob(
        "sigmoid",
        "Of dpo: sigmoid, its own; ipo, the squared distance of the mean log-ratios per token from 1 / (2 beta).",
        choices=("sigmoid", "ipo"),
        later=True,
    )
    length_normalised: bool = knob(
        False, "Of dpo: divide log-ratios by the tokens of their answers; ipo does so always.", later=True
    )
    gamma: float = knob(1.0, "Of simpo: the margin by which the chosen answer is to be ahead.", later=True)
    teacher: Optional[str] = knob(
        None,
        "Of distill: the teacher to ask while training, a run, a checkpoint (step-N) or a Hugging Face folder; by "
        "default the shards have what it said (data.teacher of prepare).",
        later=True,
    )
    alpha: float = knob(
        0.5, "Of distill: the teacher's share in the loss, the text's being the rest.", high=1.0, later=True
    )
    temperature: float = knob(
        1.0, "Of distill: temperature of both models' probabilities.", low=0.01, high=100.0, later=True
    )


@dataclass
class Optimizer:
    """The optimiser."""

    name: str = knob(
        "adamw", "Optimiser; muon is for the blocks' matrices, all else has AdamW.", choices=tuple(OPTIMIZERS)
    )
    lr: float = knob(3e-4, "Peak learning rate; with muon, of the AdamW parameters.", common=True, high=10.0)
    beta1: float = knob(0.9, "Decay of AdamW's first moment; share of momentum in lion's update.", high=0.9999999)
    beta2: float = knob(0.95, "Decay of AdamW's second moment, or of lion's momentum.", high=0.9999999)
    eps: float = knob(1e-8, "Epsilon of AdamW.")
    weight_decay: float = knob(
        0.1,
        "Decay of matrices and embeddings, decoupled (with sgd, L2); norms and biases have none.",
        high=10.0,
    )
    momentum: float = knob(0.9, "Decay of sgd's momentum.", low=0.01, high=0.9999999, later=True)
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
    uneven_heads: bool = knob(
        False, "Let tensor not divide the key and value heads; a layer then waits for the ranks that have more."
    )
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


def overlaps(*, cuda: bool, ranks: int) -> bool:
    """Whether gradients are reduced while backward goes on (DeepSpeed's overlap_comm), by `ranks` that share them.

    A rank alone would only wait for its device at the end of each backward.
    """
    return cuda and ranks > 1


def fills_buckets(parallel: Parallel, *, cuda: bool, ranks: int) -> bool:
    """Whether gradients are copied into a bucket as they come (DeepSpeed's contiguous_gradients).

    That is for reducing them while backward goes on. At stage 1 on a CPU, or on one GPU, nothing does; the copies would
    be 4 % to 6 % of a small model's step.
    """
    return overlaps(cuda=cuda, ranks=ranks) or parallel.zero_stage != 1 or parallel.offload != "none"


BUCKET = 500_000_000  # DeepSpeed's own reduce_bucket_size, elements
LEAST_BUCKET = 5_000_000  # below, a network is kept busy by latencies
BUCKETS = 6


def bucket_elements(elements: int, *, cuda: bool) -> int:
    """Gradients that are reduced together (DeepSpeed's reduce_bucket_size), of the `elements` that a rank holds.

    A bucket is reduced when it is full: one of DeepSpeed's size is, of models below 500M, when backward has ended, and
    nothing overlaps. On a CPU nothing would, either.
    """
    return max(LEAST_BUCKET, min(BUCKET, elements // BUCKETS)) if cuda else BUCKET
