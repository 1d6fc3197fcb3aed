"""Refuses configurations that can't be honoured, before any file is read or device taken; each in one line."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from trainer.config import Data, Model, Parallel, Pretrain, Train
from trainer.errors import ConfigError

DEFAULT_MICRO_BATCH = 8  # sequences


def require(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless `condition`."""
    if not condition:
        raise ConfigError(message)


def check_values(section: Any, prefix: str = "") -> None:
    """Refuses a value outside a field's choices or bounds, anywhere in the configuration."""
    for item in dataclasses.fields(section):
        value, key, rules = getattr(section, item.name), f"{prefix}{item.name}", item.metadata
        if dataclasses.is_dataclass(value):
            check_values(value, f"{key}.")
        elif isinstance(value, dict):
            for name, entry in value.items():
                if dataclasses.is_dataclass(entry):
                    check_values(entry, f"{key}.{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            unit = f" ({rules['unit']})" if rules["unit"] else ""
            limit = f" and at most {rules['high']}" if rules["high"] < math.inf else ""
            within = math.isfinite(value) and rules["low"] <= value <= rules["high"]
            require(within, f"{key}={value}: must be at least {rules['low']}{limit}{unit}.")
        elif rules.get("choices"):
            require(
                value in rules["choices"], f"{key}={value}: not known; choose one of {', '.join(rules['choices'])}."
            )


def check_model(model: Model) -> None:
    """Refuses a model whose sizes don't fit each other."""
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    require(
        heads % kv_heads == 0,
        f"model.num_key_value_heads={kv_heads} doesn't divide model.num_attention_heads={heads}: "
        f"choose one of {_divisors(heads)}.",
    )
    if model.head_dim is None:
        require(
            model.hidden_size % heads == 0,
            f"model.hidden_size={model.hidden_size} is no multiple of model.num_attention_heads={heads}: "
            "change either, or set model.head_dim.",
        )
    head_dim = model.head_dim or model.hidden_size // heads
    require(head_dim % 2 == 0, f"model.head_dim={head_dim} is odd: rotary positions turn pairs; make it even.")
    experts, chosen = model.num_experts, model.num_experts_per_tok
    require(
        experts == 0 or chosen <= experts,
        f"model.num_experts_per_tok={chosen}: there are only model.num_experts={experts}; use {experts} or fewer.",
    )


def check_data(data: Data) -> None:
    """Refuses a data section from which nothing can be trained."""
    require(
        bool(data.path) != bool(data.train),
        "data.path and data.train: give one of them (data.path=DIR, or data.train.NAME.path=DIR for a mixture).",
    )
    for group, sets in (("train", data.train), ("validation", data.validation)):
        for name, entry in sets.items():
            require(bool(entry.path), f"data.{group}.{name}.path is empty: set it to a folder of token shards.")
            require(name.isidentifier(), f"data.{group}.{name}: a name is letters, digits and underscores.")
    for name, entry in data.train.items():
        require(
            entry.weight > 0, f"data.train.{name}.weight={entry.weight}: must be above 0; leave the set out instead."
        )


def micro_batch_of(train: Train, ranks: int) -> int:
    """train.micro_batch_size, or by default the largest up to DEFAULT_MICRO_BATCH that divides a rank's share."""
    if train.micro_batch_size is not None:
        return train.micro_batch_size
    if train.batch_size % ranks:
        return 1  # no size will do: check_batch says so
    share = train.batch_size // ranks
    return max([size for size in _divisors(share) if size <= DEFAULT_MICRO_BATCH], default=1)


def check_batch(train: Train, ranks: int) -> None:
    """Refuses a batch that can't be cut into whole micro-batches on this many data-parallel ranks."""
    micro = micro_batch_of(train, ranks)
    chunk = micro * ranks
    if train.batch_size % chunk == 0:
        return
    fitting = [size for size in _divisors(train.batch_size) if train.batch_size % (size * ranks) == 0]
    below = train.batch_size // chunk * chunk
    batches = [size for size in (below, below + chunk) if size > 0]
    mend = f"train.batch_size={' or '.join(map(str, batches))}"
    if fitting:
        mend += f", or train.micro_batch_size={' or '.join(map(str, fitting))}"
    raise ConfigError(
        f"train.batch_size={train.batch_size} can't be cut into micro-batches of {micro} on {ranks} "
        f"rank{'s' * (ranks > 1)}; use {mend}."
    )


def data_ranks_of(config: Pretrain, world_size: int) -> int:
    """Ranks that take different data: the others share layers or sequences with one of these."""
    return world_size // (config.parallel.tensor * config.parallel.sequence)


def check_parallel(config: Pretrain, world_size: int) -> None:
    """Refuses layouts that can't be honoured (FIELD_NOTES' traps and what isn't built)."""
    parallel, train = config.parallel, config.train
    if train.precision == "bf16" and parallel.zero_stage == 0:
        raise ConfigError(
            "train.precision=bf16 with parallel.zero_stage=0 gives wrong losses in DeepSpeed: "
            "use parallel.zero_stage=1."
        )
    kv_heads = config.model.num_key_value_heads
    require(
        kv_heads % parallel.tensor == 0,
        f"model.num_key_value_heads={kv_heads} can't be cut into parallel.tensor={parallel.tensor}: "
        f"use parallel.tensor={' or '.join(map(str, _divisors(kv_heads)))}.",
    )
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
    check_offload(parallel)
    check_hpz(parallel, world_size)
    check_batch(train, data_ranks_of(config, world_size))


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
        f"use parallel.tensor={' or '.join(map(str, _divisors(model.num_experts)))}.",
    )
    require(
        parallel.sequence == 1,
        f"parallel.sequence={parallel.sequence} with model.num_experts={model.num_experts}: the load-balancing loss is "
        "of whole rows; use parallel.sequence=1.",
    )
    for key in ("hidden_size", "moe_intermediate_size"):
        size = getattr(model, key)
        require(
            config.train.precision != "bf16" or size % 8 == 0,
            f"model.{key}={size}: the kernel that takes all experts at once needs multiples of 8 in bf16; use "
            f"{max(8, size // 8 * 8)} or {max(8, size // 8 * 8) + 8}, or train.precision=fp32.",
        )


def check_muon(config: Pretrain) -> None:
    """Refuses Muon where DeepSpeed 0.19.8 would compute something else, or in lower precision than the run's."""
    parallel = config.parallel
    if config.optimizer.name != "muon":
        return
    require(
        config.train.precision != "bf16" or parallel.zero_stage != 2,
        "optimizer.name=muon with train.precision=bf16 and parallel.zero_stage=2: DeepSpeed adds up gradients and "
        "momentum in bf16 there; use parallel.zero_stage=1 or 3.",
    )
    require(
        config.train.precision != "bf16" or parallel.zero_stage != 1 or config.model.num_experts == 0,
        f"optimizer.name=muon with train.precision=bf16, parallel.zero_stage=1 and model.num_experts="
        f"{config.model.num_experts}: DeepSpeed takes no stacked matrices there; use parallel.zero_stage=3.",
    )
    require(
        parallel.tensor == 1,
        f"optimizer.name=muon with parallel.tensor={parallel.tensor}: DeepSpeed would orthogonalize each rank's slice "
        "of a matrix instead of the matrix; use parallel.tensor=1 or optimizer=adamw.",
    )
    require(
        parallel.offload == "none",
        f"optimizer.name=muon with parallel.offload={parallel.offload}: DeepSpeed would clip the orthogonal update "
        "instead of the gradient; use parallel.offload=none or optimizer=adamw.",
    )


def check_sequence(config: Pretrain) -> None:
    """Refuses rows that can't be spread over ranks."""
    parts = config.parallel.sequence
    if parts == 1:
        return
    require(
        config.parallel.tensor == 1,
        f"parallel.sequence={parts} with parallel.tensor={config.parallel.tensor}: both cut the heads; "
        "set one of them to 1.",
    )
    sizes = {
        "model.num_attention_heads": config.model.num_attention_heads,
        "model.num_key_value_heads": config.model.num_key_value_heads,
        "data.sequence_length": config.data.sequence_length,
    }
    for key, size in sizes.items():
        require(
            size % parts == 0,
            f"{key}={size} can't be cut into parallel.sequence={parts}: use "
            f"parallel.sequence={' or '.join(map(str, _divisors(math.gcd(*sizes.values()))))}.",
        )
    require(
        config.model.dropout == 0,
        f"model.dropout={config.model.dropout} with parallel.sequence={parts}: parts of a row would not drop what the "
        "whole row does; set model.dropout=0 or parallel.sequence=1.",
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
        world_size % parallel.hpz == 0,
        f"parallel.hpz={parallel.hpz} doesn't divide the {world_size} ranks: use one of {_divisors(world_size)}, "
        "best the ranks of a node.",
    )


def check_pretrain(config: Pretrain, world_size: int) -> None:
    """Every check of `banyan pretrain` that needs no file: refuses what can't be honoured on `world_size` ranks."""
    check_values(config)
    check_model(config.model)
    check_data(config.data)
    check_muon(config)
    check_parallel(config, world_size)
    train = config.train
    require(
        train.activation_checkpointing != "selective" or not train.compile,
        "train.activation_checkpointing=selective with train.compile=true: products in compiled blocks can't be told "
        "apart and would all be computed again; use train.activation_checkpointing=full or train.compile=false.",
    )
    require(
        (train.steps is None) != (train.tokens is None),
        "train.steps and train.tokens: give one of them, the length of the run.",
    )
    require(
        config.model.dropout == 0 or train.micro_batch_size is not None,
        "model.dropout needs train.micro_batch_size: micro-batches decide what is dropped, so they must not follow "
        "from the number of ranks; set it to 1 or more.",
    )
    require(
        not config.run.allow_change or bool(config.run.name or config.run.dir),
        "run.allow_change=true needs run.name or run.dir: the default name is a hash of what you are changing.",
    )
    require(
        config.checkpoint.dir is None or "://" in config.checkpoint.dir,
        f"checkpoint.dir={config.checkpoint.dir}: give a URL, as s3://BUCKET/RUN; on disks they are in run.dir.",
    )
    watched = config.evaluate.patience or config.checkpoint.keep_best
    require(
        not watched or config.evaluate.every > 0,
        "evaluate.patience and checkpoint.keep_best need evaluations: set evaluate.every above 0.",
    )


def total_steps_of(config: Pretrain) -> int:
    """Optimiser steps of the whole run."""
    if config.train.steps is not None:
        return config.train.steps
    assert config.train.tokens is not None
    return math.ceil(config.train.tokens / (config.train.batch_size * config.data.sequence_length))


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
