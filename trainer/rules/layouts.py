"""Which layouts can be honoured: refuses the others, each with its reason. docs/PARALLELISM.md has them in a table."""

from __future__ import annotations

import math

from trainer.config import AUTO, Parallel, Pretrain
from trainer.config.plain_values import with_values
from trainer.errors import ConfigError, divisors, require
from trainer.rules.float8 import check_float8, check_float8_head
from trainer.rules.lstm import check_lstm_precision


def settle_precision(config: Pretrain, world_size: int, *, native_bf16: bool) -> str:
    """train.precision; of AUTO bf16, if the devices multiply it natively and the layout allows it, else fp32."""
    if config.train.precision != AUTO:
        return config.train.precision
    try:
        check_layout(with_values(config, {"train.precision": "bf16"}), world_size)
    except ConfigError:
        return "fp32"
    return "bf16" if native_bf16 else "fp32"


def check_layout(config: Pretrain, world_size: int) -> None:
    """Refuses a layout that DeepSpeed would get wrong, that the model or the ranks don't fit, or that isn't built."""
    parallel = config.parallel
    check_lstm_precision(config)
    if config.model.path is None and config.model.kind == "decoder":
        check_tensor_heads(config.model.num_key_value_heads, parallel)
    share = parallel.tensor * parallel.sequence
    require(
        world_size % share == 0,
        f"parallel.tensor={parallel.tensor} and parallel.sequence={parallel.sequence} take {share} ranks together, "
        f"which doesn't divide the {world_size} there are: make launch.processes a multiple of {share}, or lower them.",
    )
    check_sequence(config)
    check_experts(config)
    require(
        parallel.pipeline == 1,
        f"parallel.pipeline={parallel.pipeline}: not built, for DeepSpeed's pipeline refuses ZeRO 2 and 3, clips "
        "wrongly at stage 0, wants the model as a list of layers and idles ranks in bubbles; use parallel.tensor "
        "within a node and parallel.zero_stage=3 across nodes.",
    )
    check_muon(config)
    check_float8(config)
    check_float8_head(config)
    check_offload(parallel)
    require(
        config.train.ema is None or parallel.offload == "none" or parallel.offload_device != "nvme",
        f"train.ema={config.train.ema} with parallel.offload_device=nvme: weights that are on a drive between steps "
        "can't be averaged after each; use parallel.offload_device=cpu, or leave train.ema out.",
    )
    check_hpz(parallel, world_size)


def check_tensor_heads(kv_heads: int, parallel: Parallel) -> None:
    """Refuses tensor-parallel ranks that would have no heads, or unless that is asked for, more heads than others."""
    uneven = parallel.uneven_heads and parallel.tensor <= kv_heads
    mend = f"use parallel.tensor={' or '.join(map(str, divisors(kv_heads)))}"
    if parallel.tensor <= kv_heads:
        mend += ", or parallel.uneven_heads=true to give the first ranks more heads than the others"
    require(
        kv_heads % parallel.tensor == 0 or uneven,
        f"model.num_key_value_heads={kv_heads} can't be cut evenly into parallel.tensor={parallel.tensor}: {mend}.",
    )


def check_elastic(config: Pretrain) -> None:
    """Refuses layouts that need a number of ranks which an elastic run may not have."""
    for key in ("tensor", "sequence", "hpz"):
        degree = getattr(config.parallel, key)
        require(
            degree == 1,
            f"launch.workers={config.launch.workers}: an elastic run takes whatever number of ranks there is, of which "
            f"parallel.{key}={degree} doesn't divide each; use parallel.{key}=1, or a fixed launch.workers.",
        )


def check_sequence(config: Pretrain) -> None:
    """Refuses rows that can't be spread over ranks."""
    parts = config.parallel.sequence
    if parts == 1:
        return
    tensor = config.parallel.tensor
    heads = {key: getattr(config.model, key) for key in ("num_attention_heads", "num_key_value_heads")}
    sizes = {f"model.{key}": (size, tensor) for key, size in heads.items()}
    sizes["data.sequence_length"] = (config.data.sequence_length, 1)
    possible = divisors(math.gcd(*(size // cut if size % cut == 0 else 1 for size, cut in sizes.values())))
    for key, (size, cut) in sizes.items():
        again = f"parallel.tensor={tensor} times " if cut > 1 else ""
        require(
            size % (parts * cut) == 0,
            f"{key}={size} can't be cut into {again}parallel.sequence={parts}: use "
            f"parallel.sequence={' or '.join(map(str, possible))}{', or a smaller parallel.tensor' if again else ''}.",
        )
    require(
        config.model.dropout == 0,
        f"model.dropout={config.model.dropout} with parallel.sequence={parts}: parts of a row would not drop what the "
        "whole row does; set model.dropout=0 or parallel.sequence=1.",
    )


def check_experts(config: Pretrain) -> None:
    """Refuses layouts and sizes that experts can't be honoured in."""
    parallel, model = config.parallel, config.model
    require(
        parallel.expert == 1,
        f"parallel.expert={parallel.expert}: DeepSpeed's expert parallelism swaps the layer for one without router "
        "losses, whose checkpoints fit no other shape; use 1, and parallel.tensor, which deals experts out within a "
        "node, or parallel.zero_stage=3, which cuts their weights and state among all ranks.",
    )
    if model.num_experts == 0:
        return
    require(
        model.num_experts % parallel.tensor == 0,
        f"parallel.tensor={parallel.tensor} doesn't divide model.num_experts={model.num_experts}, which it deals out: "
        f"use parallel.tensor={' or '.join(map(str, divisors(model.num_experts)))}.",
    )
    require(
        parallel.sequence == 1,
        f"parallel.sequence={parallel.sequence} with model.num_experts={model.num_experts}: the load-balancing loss is "
        "of whole rows; use parallel.sequence=1.",
    )
    for key in ("hidden_size", "moe_intermediate_size"):
        size = getattr(model, key)
        require(
            not config.train.in_bf16 or size % 8 == 0,
            f"model.{key}={size}: the kernel that takes all experts at once needs multiples of 8 in bf16; use "
            f"{max(8, size // 8 * 8)} or {max(8, size // 8 * 8) + 8}, or train.precision=fp32.",
        )


def check_muon(config: Pretrain) -> None:
    """Refuses Muon where DeepSpeed 0.19.8 would compute something else, or in lower precision than the run's."""
    parallel = config.parallel
    if config.optimizer.name != "muon":
        return
    require(
        not config.train.in_bf16 or parallel.zero_stage != 2 or parallel.offload != "none",
        f"optimizer.name=muon with train.precision={config.train.precision} and parallel.zero_stage=2: DeepSpeed adds "
        "up gradients and momentum in bf16 there; use parallel.zero_stage=1 or 3, or parallel.offload=optimizer.",
    )
    require(
        not config.train.in_bf16
        or parallel.zero_stage != 1
        or config.model.num_experts == 0
        or parallel.offload != "none",
        f"optimizer.name=muon with train.precision={config.train.precision}, parallel.zero_stage=1 and "
        f"model.num_experts={config.model.num_experts}: DeepSpeed takes no stacked matrices there; use "
        "parallel.zero_stage=3.",
    )
    check_muon_cut(config)
    require(
        parallel.offload == "none" or parallel.offload_device == "cpu",
        f"optimizer.name=muon with parallel.offload_device={parallel.offload_device}: gradients are clipped before "
        "they are orthogonalized, and on a drive they can't be; use parallel.offload_device=cpu or optimizer=adamw.",
    )


def check_muon_cut(config: Pretrain) -> None:
    """Refuses tensor parallelism with Muon where DeepSpeed doesn't say which matrix it updates, or peers would wait.

    Peers gather each matrix together, so they must go through the same ones in the same order: slices of one size.
    """
    parallel, model = config.parallel, config.model
    if parallel.tensor == 1:
        return
    require(
        not config.train.in_bf16 or parallel.zero_stage != 1 or parallel.offload != "none",
        f"optimizer.name=muon with parallel.tensor={parallel.tensor}, train.precision={config.train.precision} and "
        "parallel.zero_stage=1: DeepSpeed doesn't say there which matrix it orthogonalizes, so slices of one can't be "
        "brought together; use parallel.zero_stage=3, or train.precision=fp32.",
    )
    sizes = {"model.num_key_value_heads": model.num_key_value_heads}
    if model.num_experts == 0:
        sizes["model.intermediate_size"] = model.intermediate_size
    for key, size in sizes.items():
        require(
            size % parallel.tensor == 0,
            f"optimizer.name=muon with parallel.tensor={parallel.tensor} and {key}={size}: ranks would hold slices of "
            "different sizes and wait for each other forever when they bring matrices together; use a parallel.tensor "
            "that divides it, or optimizer=adamw.",
        )


def check_offload(parallel: Parallel) -> None:
    """Refuses what can't leave the device, or has nowhere to go."""
    stage, nvme = parallel.zero_stage, parallel.offload_device == "nvme"
    if parallel.offload == "none":
        unused = "parallel.offload_device=nvme" if nvme else f"parallel.nvme_path={parallel.nvme_path}"
        require(
            not nvme and parallel.nvme_path is None,
            f"{unused} has no effect with parallel.offload=none: set that to optimizer or all, or leave this out.",
        )
        return
    require(
        stage > 0,
        f"parallel.offload={parallel.offload} with parallel.zero_stage=0: DeepSpeed offloads only what it shards; "
        "use parallel.zero_stage=1, 2 or 3.",
    )
    require(
        stage == 3 or parallel.offload == "optimizer",
        f"parallel.offload=all with parallel.zero_stage={stage}: only stage 3 shards weights, and can offload them; "
        "use parallel.zero_stage=3 or parallel.offload=optimizer.",
    )
    require(
        stage == 3 or not nvme,
        f"parallel.offload_device=nvme with parallel.zero_stage={stage}: only stage 3 reads and writes NVMe; "
        "use parallel.zero_stage=3 or parallel.offload_device=cpu.",
    )
    require(
        nvme == (parallel.nvme_path is not None),
        "parallel.nvme_path and parallel.offload_device=nvme go together: give both, or neither.",
    )


def check_hpz(parallel: Parallel, world_size: int) -> None:
    """Refuses secondary copies of weights that can't be cut among the ranks."""
    if parallel.hpz == 1:
        return
    require(
        parallel.zero_stage == 3,
        f"parallel.hpz={parallel.hpz} with parallel.zero_stage={parallel.zero_stage}: only stage 3 gathers weights; "
        "use parallel.zero_stage=3 or parallel.hpz=1.",
    )
    require(
        parallel.tensor == 1,
        f"parallel.hpz={parallel.hpz} with parallel.tensor={parallel.tensor}: DeepSpeed would copy a tensor-parallel "
        "peer's slices; use parallel.tensor=1 or parallel.hpz=1.",
    )
    require(
        parallel.offload_device != "nvme",
        f"parallel.hpz={parallel.hpz} with parallel.offload_device=nvme: DeepSpeed doesn't put the second copy there; "
        "use parallel.offload_device=cpu or parallel.hpz=1.",
    )
    require(
        world_size % parallel.hpz == 0,
        f"parallel.hpz={parallel.hpz} doesn't divide the {world_size} ranks: use one of {divisors(world_size)}, "
        "best the ranks of a node.",
    )
