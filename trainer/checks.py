"""Refuses configurations that can't be honoured, before any file is read or device taken; each in one line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from trainer.config import AUTO, Data, Model, Pretrain, Train
from trainer.elastic import DEFAULT_MICRO_BATCH, check_elastic_batch, micro_batch_in, range_of
from trainer.errors import ConfigError
from trainer.layouts import check_elastic, check_layout, data_ranks_of
from trainer.model_folder import check_causal_lm
from trainer.names import check_name
from trainer.refusal import divisors, require

SHORTEST_HANG_S = 5  # below, a busy machine looks like a hang


def check_values(section: Any, prefix: str = "") -> None:
    """Refuses a value outside a field's choices or bounds, and what is no name, anywhere in the configuration."""
    for item in dataclasses.fields(section):
        value, key, rules = getattr(section, item.name), f"{prefix}{item.name}", item.metadata
        if dataclasses.is_dataclass(value):
            check_values(value, f"{key}.")
        elif isinstance(value, dict):
            for name, entry in value.items():
                if dataclasses.is_dataclass(entry):
                    require(name.isidentifier(), f"{key}.{name}: a name is letters, digits and underscores.")
                    check_values(entry, f"{key}.{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            unit = f" ({rules['unit']})" if rules["unit"] else ""
            limit = f" and at most {rules['high']}" if rules["high"] < math.inf else ""
            within = abs(value) != math.inf and rules["low"] <= value <= rules["high"]
            require(within, f"{key}={value}: must be at least {rules['low']}{limit}{unit}.")
        elif isinstance(value, str):
            check_text(key, value, choices=rules.get("choices", ()), is_name=rules.get("is_name", False))


def check_text(key: str, value: str, *, choices: Sequence[str], is_name: bool) -> None:
    """Refuses text that isn't among the field's choices, is no name where it must be one, or can't be stored."""
    require(not choices or value in choices, f"{key}={value}: not known; choose one of {', '.join(choices)}.")
    if is_name:
        check_name(key, value)
    require(  # generate's prompt isn't stored, and prepare escapes where it writes to
        key in ("prompt", "data.output")
        or value.isascii()
        or not any("\ud800" <= letter <= "\udfff" for letter in value),
        f"{key}={value!a}: isn't UTF-8, as what is stored must be; rename the folder or file.",
    )


def check_model(model: Model) -> None:
    """Refuses a model whose sizes don't fit each other."""
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    require(
        heads % kv_heads == 0,
        f"model.num_key_value_heads={kv_heads} doesn't divide model.num_attention_heads={heads}: "
        f"choose one of {divisors(heads)}.",
    )
    if model.head_dim is None:
        require(
            model.hidden_size % heads == 0,
            f"model.hidden_size={model.hidden_size} is no multiple of model.num_attention_heads={heads}: "
            "change either, or set model.head_dim.",
        )
    head_dim = model.head_dim or model.hidden_size // heads
    require(head_dim % 2 == 0, f"model.head_dim={head_dim} is odd: rotary positions turn pairs; make it even.")
    require(
        not (model.mup and model.tie_word_embeddings),
        "model.mup=true with model.tie_word_embeddings=true: muP gives embedding and head different rates; untie them, "
        "or set model.mup=false.",
    )
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
    for name, entry in data.train.items():
        require(
            entry.weight > 0, f"data.train.{name}.weight={entry.weight}: must be above 0; leave the set out instead."
        )


def micro_batch_of(train: Train, ranks: int) -> int:
    """train.micro_batch_size, or by default the largest up to DEFAULT_MICRO_BATCH that divides a rank's share.

    The default stands for AUTO, too, until the sizes have been measured.
    """
    if isinstance(train.micro_batch_size, int):
        return train.micro_batch_size
    if train.batch_size % ranks:
        return 1  # no size will do: check_batch says so
    share = train.batch_size // ranks
    return max([size for size in divisors(share) if size <= DEFAULT_MICRO_BATCH], default=1)


def settle_micro_batch(config: Pretrain, world_size: int) -> int:
    """The micro-batch of a run on `world_size` ranks; of an elastic one, the same at any number of them."""
    sizes = range_of(config.launch)
    if sizes is not None:
        return micro_batch_in(config.train, most=sizes[1])
    return micro_batch_of(config.train, data_ranks_of(config, world_size))


def check_auto(train: Train, *, elastic: bool) -> None:
    """Refuses text other than AUTO for a micro-batch, and AUTO where a choice at one number of ranks won't do."""
    require(
        train.micro_batch_size == AUTO,
        f"train.micro_batch_size={train.micro_batch_size}: give a number of sequences, or {AUTO}.",
    )
    require(
        not elastic,
        f"train.micro_batch_size={AUTO} with a range of launch.workers: what is measured at one number of ranks would "
        "decide for all; set it to a number, or leave it out.",
    )


def check_batch(train: Train, ranks: int) -> None:
    """Refuses a batch that can't be cut into whole micro-batches on this many data-parallel ranks."""
    micro = micro_batch_of(train, ranks)
    chunk = micro * ranks
    if train.batch_size % chunk == 0:
        return
    fitting = [size for size in divisors(train.batch_size) if train.batch_size % (size * ranks) == 0]
    below = train.batch_size // chunk * chunk
    batches = [size for size in (below, below + chunk) if size > 0]
    mend = f"train.batch_size={' or '.join(map(str, batches))}"
    if fitting:
        mend += f", or train.micro_batch_size={' or '.join(map(str, fitting))}"
    raise ConfigError(
        f"train.batch_size={train.batch_size} can't be cut into micro-batches of {micro} on {ranks} "
        f"rank{'s' * (ranks > 1)}; use {mend}."
    )


def check_pretrain(config: Pretrain, world_size: int) -> None:
    """Every check of `banyan pretrain` that needs no file: refuses what can't be honoured on `world_size` ranks."""
    check_values(config)
    if config.model.path is None:
        check_model(config.model)
    else:
        check_causal_lm(config)
    check_data(config.data)
    check_layout(config, world_size)
    train = config.train
    sizes = range_of(config.launch)
    if isinstance(train.micro_batch_size, str):
        check_auto(train, elastic=sizes is not None)
    if sizes is None:
        check_batch(train, data_ranks_of(config, world_size))
    else:
        check_elastic(config)
        check_elastic_batch(train, most=sizes[1])
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
        config.model.dropout == 0 or isinstance(train.micro_batch_size, int),
        "model.dropout needs train.micro_batch_size: micro-batches decide what is dropped, so they must not follow "
        "from the number of ranks or from a measurement; set it to 1 or more.",
    )
    require(
        not config.run.allow_change or bool(config.run.name or config.run.dir),
        "run.allow_change=true needs run.name or run.dir: the default name is a hash of what you are changing.",
    )
    require(
        config.checkpoint.dir is None or "://" in config.checkpoint.dir,
        f"checkpoint.dir={config.checkpoint.dir}: give a URL, as s3://BUCKET/RUN; on disks they are in run.dir.",
    )
    require(
        not (config.model.init_from and config.checkpoint.fork_from),
        "model.init_from and checkpoint.fork_from: give one of them; weights alone, or all the state of a run.",
    )
    hang_timeout_s = config.health.hang_timeout_s
    require(
        hang_timeout_s == 0 or hang_timeout_s >= SHORTEST_HANG_S,
        f"health.hang_timeout_s={hang_timeout_s:g}: give {SHORTEST_HANG_S} or more, or 0 to turn the watchdog off.",
    )
    watched = config.evaluate.patience or config.checkpoint.keep_best
    require(
        not watched or config.evaluate.every > 0,
        "evaluate.patience and checkpoint.keep_best need evaluations: set evaluate.every above 0.",
    )
