"""Refuses configurations that can't be honoured, before any file is read or device taken; each in one line."""

from __future__ import annotations

import dataclasses
import math

from trainer.config import AUTO, OF_CAUSAL_LM, Data, Model, Pretrain, Train
from trainer.config.batches import data_ranks_of, micro_batch_in, micro_batch_of
from trainer.config.launchers import range_of
from trainer.config.ramps import batch_sizes, check_ramps, common_batch
from trainer.config.rope import check_rope
from trainer.config.values import check_values
from trainer.errors import ConfigError, divisors, require
from trainer.rules.adapt import check_adapt
from trainer.rules.alerts import check_alerts
from trainer.rules.compiled import check_compile
from trainer.rules.layouts import check_elastic, check_layout
from trainer.rules.lstm import check_lstm
from trainer.rules.objectives import check_objective
from trainer.rules.preference import check_preferences

MOST_PROFILED_STEPS = 100  # whose events all stay in memory until they are written
SHORTEST_HANG_S = 5  # below, a busy machine looks like a hang


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
    require(
        not model.extend_context or model.init_from is not None,
        "model.extend_context=true without model.init_from: there is nothing to begin with; leave it out.",
    )
    experts, chosen = model.num_experts, model.num_experts_per_tok
    require(
        experts == 0 or chosen <= experts,
        f"model.num_experts_per_tok={chosen}: there are only model.num_experts={experts}; use {experts} or fewer.",
    )


def check_causal_lm(config: Pretrain) -> None:
    """Refuses what a Hugging Face model can't be asked for; no file is read."""
    model, parallel, train = config.model, config.parallel, config.train
    for field in dataclasses.fields(Model):
        value = getattr(model, field.name)
        require(
            field.name in OF_CAUSAL_LM or value == (field.default if field.default is not dataclasses.MISSING else {}),
            f"model.{field.name}={value} has no effect with model.path, whose config.json describes the model: leave "
            "it out; fields of config.json are replaced by model.overrides.FIELD=VALUE.",
        )
    require(
        parallel.sequence == 1,
        f"parallel.sequence={parallel.sequence} with model.path: Hugging Face's attention would see only a rank's part "
        "of each row; use parallel.sequence=1.",
    )
    require(
        config.optimizer.name != "muon",
        "optimizer.name=muon with model.path: which matrices of another architecture are hidden ones isn't known; use "
        "optimizer=adamw.",
    )
    require(
        not parallel.uneven_heads,
        "parallel.uneven_heads=true with model.path: plans of Hugging Face models cut heads evenly; leave it out.",
    )
    require(
        train.activation_checkpointing != "selective",
        "train.activation_checkpointing=selective with model.path: transformers knows full only; use full or none.",
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
    check_mixture(data)


def check_mixture(data: Data) -> None:
    """Refuses weights, caps and stages that are none."""
    for name, entry in data.train.items():
        later = any(stage.weights.get(name, 0) > 0 for stage in data.stages.values())
        require(
            entry.weight > 0 or (entry.weight == 0 and later),
            f"data.train.{name}.weight={entry.weight}: must be above 0; leave the set out instead.",
        )
        require(
            entry.epochs is None or entry.epochs > 0,
            f"data.train.{name}.epochs={entry.epochs}: must be above 0; leave the set out instead.",
        )
    require(
        not data.train or any(entry.weight > 0 for entry in data.train.values()),
        "data.train: all weights are 0; give one that is above.",
    )
    for key, given in (("stages", data.stages), ("temperature", data.temperature)):
        require(
            not given or bool(data.train),
            f"data.{key} is for a mixture: name its sets by data.train.NAME.path, or leave it out.",
        )
    begins: dict[int, str] = {}
    known = ", ".join(sorted(data.train))
    for name, stage in data.stages.items():
        key = f"data.stages.{name}"
        require(stage.from_tokens > 0, f"{key}.from_tokens is not set: say after how many tokens the stage begins.")
        other = begins.setdefault(stage.from_tokens, name)
        require(
            other == name,
            f"{key}.from_tokens={stage.from_tokens}: data.stages.{other} begins there, too; choose another.",
        )
        require(
            any(weight > 0 for weight in stage.weights.values()), f"{key}.weights: give one that is above 0 at least."
        )
        for named, weight in stage.weights.items():
            require(
                named in data.train,
                f"{key}.weights.{named}: no such set in data.train, but {known}.",
            )
            require(0 <= weight < math.inf, f"{key}.weights.{named}={weight}: must be 0 or above.")


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
    for stage, entry in train.batch_ramp.items():
        require(
            entry.batch_size % chunk == 0,
            f"train.batch_ramp.{stage}.batch_size={entry.batch_size} can't be cut into micro-batches of {micro} on "
            f"{ranks} rank{'s' * (ranks > 1)}; use a multiple of {chunk}.",
        )
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


def check_profile(train: Train, world_size: int, *, elastic: bool) -> None:
    """Refuses steps that are no range, more of them than a trace can hold, and ranks that there aren't."""
    steps, ranks = train.profile, train.profile_ranks
    require(
        not steps or (len(steps) == 2 and 1 <= steps[0] <= steps[1]),
        f"train.profile={steps}: give the first and the last step to profile, as train.profile=[10,12].",
    )
    require(
        not steps or steps[1] - steps[0] < MOST_PROFILED_STEPS,
        f"train.profile={steps}: a trace holds {MOST_PROFILED_STEPS} steps at most; give fewer.",
    )
    require(bool(steps) or not ranks, f"train.profile_ranks={ranks}: give train.profile=[FIRST,LAST] as well.")
    require(
        all(rank >= 0 and (elastic or rank < world_size) for rank in ranks),
        f"train.profile_ranks={ranks}: ranks are 0 to {world_size - 1}.",
    )


def check_encryption(config: Pretrain) -> None:
    """Refuses several keys, checkpoints that are to be encrypted without one, and files of several ranks for them."""
    source, checkpoint = config.data.encryption.source, config.checkpoint
    require(
        source is not None or not checkpoint.encrypt,
        "checkpoint.encrypt=true needs a key: give data.encryption.key_file, key_env or key_command.",
    )
    require(
        not (checkpoint.encrypt and checkpoint.writers),
        f"checkpoint.writers={checkpoint.writers} with checkpoint.encrypt=true: an encrypted file is written by one "
        "rank; leave it out.",
    )


def check_pretrain(config: Pretrain, world_size: int) -> None:
    """Every check of `banyan pretrain` that needs no file: refuses what can't be honoured on `world_size` ranks."""
    check_encryption(config)
    check_values(config)
    if config.model.path is None and config.model.kind == "lstm":
        check_lstm(config)
    elif config.model.path is None:
        check_model(config.model)
        check_rope(config.model.rope_scaling, config.data.sequence_length)
    else:
        check_causal_lm(config)
    check_data(config.data)
    check_ramps(config)
    check_adapt(config)
    check_objective(config)
    check_preferences(config)
    check_layout(config, world_size)
    check_alerts(config.track)
    train = config.train
    sizes = range_of(config.launch)
    require(
        not isinstance(config.checkpoint.every, str) or config.checkpoint.every == AUTO,
        f"checkpoint.every={config.checkpoint.every}: give a number of steps, or {AUTO}.",
    )
    if isinstance(train.micro_batch_size, str):
        check_auto(train, elastic=sizes is not None)
    if sizes is None:
        check_batch(train, data_ranks_of(config, world_size))
    else:
        check_elastic(config)
        check_elastic_batch(train, most=sizes[1])
    check_compile(config)
    require(
        sum(length is not None for length in (train.steps, train.tokens, train.epochs)) == 1,
        "train.steps, train.tokens and train.epochs: give one of them, the length of the run.",
    )
    require(
        train.epochs is None or train.epochs > 0,
        f"train.epochs={train.epochs}: must be above 0; half a pass is 0.5.",
    )
    check_profile(train, world_size, elastic=sizes is not None)
    require(
        config.model.dropout == 0 or isinstance(train.micro_batch_size, int),
        "model.dropout needs train.micro_batch_size: micro-batches decide what is dropped, so they must not follow "
        "from the number of ranks or from a measurement; set it to 1 or more.",
    )
    require(
        not (config.model.mup and config.optimizer.name == "sgd"),
        "optimizer.name=sgd with model.mup=true: muP's rates are for optimisers that normalise the update; use "
        "optimizer=adamw, lion or muon, or model.mup=false.",
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
    require(
        not config.evaluate.prompts or config.parallel.sequence == 1,
        f"evaluate.prompts with parallel.sequence={config.parallel.sequence}: a rank has a part of each row, and a "
        "prompt can't be cut so; leave it out, and ask afterwards by banyan generate.",
    )
    watched = config.evaluate.patience or config.checkpoint.keep_best
    evaluated = config.evaluate.tasks_every if "/" in config.evaluate.watch else config.evaluate.every
    require(
        not watched or evaluated > 0,
        "evaluate.patience and checkpoint.keep_best need evaluations: set evaluate.every above 0 (evaluate.tasks_every "
        "where a task's metric is watched).",
    )
    require(
        "/" not in config.evaluate.watch or bool(config.evaluate.tasks),
        f"evaluate.watch={config.evaluate.watch}: a task's metric, but evaluate.tasks names no task.",
    )


def check_elastic_batch(train: Train, most: int) -> None:
    """Refuses a batch that can't be cut into whole micro-batches, or into fewer than there may be ranks."""
    micro = micro_batch_in(train, most)
    for size in batch_sizes(train):
        require(
            size % micro == 0,
            f"train.batch_size={size} can't be cut into micro-batches of {micro}; use train.micro_batch_size="
            f"{' or '.join(map(str, divisors(common_batch(train))))}.",
        )
    smallest = min(batch_sizes(train))
    chunks = smallest // micro
    require(
        most <= chunks,
        f"launch.workers: of {most} ranks, {most - chunks} would have nothing to do, for train.batch_size="
        f"{smallest} is {chunks} micro-batches of {micro}; use at most {chunks}, a larger train.batch_size"
        f"{' or a smaller train.micro_batch_size' * (micro > 1)}.",
    )
