"""`banyan pretrain`: token shards → a trained model. Read `run` from top to bottom: it is the map of what happens.

banyan pretrain data.path=DIR model=tiny train.steps=400
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from trainer.checkpoint.fragment import Fragment
from trainer.checkpoint.object_store import ObjectStore
from trainer.checkpoint.reader import CheckpointReader
from trainer.checkpoint.writer import CheckpointWriter, remove_attempts
from trainer.config import Model, Pretrain, resolved
from trainer.config.batches import accumulation_steps, micro_batch_of, padding_of
from trainer.config.changed import with_values
from trainer.config.precision import has_bf16_weights
from trainer.data.tokens.dataset import (
    Dataset,
    find_damage,
    open_test,
    open_training,
    open_validation,
    require_same_tokenizer,
    weights_of,
    with_absolute_paths,
    with_length,
)
from trainer.data.tokens.history import FILE as HISTORY
from trainer.data.tokens.history import History, total_steps_of
from trainer.data.tokens.loader import Loader
from trainer.data.tokens.order import Order
from trainer.engine.assemble import Assembly, assemble, compile_parts
from trainer.engine.bf16 import multiplies_bf16
from trainer.engine.deepspeed import fragments
from trainer.engine.deepspeed.offload import load_nvme_op
from trainer.engine.expert_load import ExpertLoad
from trainer.engine.float8 import require_float8
from trainer.engine.hooks import Hook
from trainer.engine.initial_weights import initial_source, open_initial_weights
from trainer.engine.loop import Progress, Trainer, Utilisation
from trainer.engine.targets import Step, counted_steps, fixed_steps
from trainer.engine.weight_average import WeightAverage
from trainer.errors import STOPPED, ConfigError, InputError
from trainer.evaluate.loss import LossEvaluator, Score
from trainer.machine.durable import write_json
from trainer.machine.host_memory import keep_freed_memory
from trainer.model.build import (
    attention_sizes,
    count_active_parameters,
    parameter_shapes,
)
from trainer.model.hugging_face.folder import find_model, keep_model, own_model
from trainer.model.hugging_face.suitability import (
    require_causal,
    require_separation,
    require_suitable,
    require_vocabulary,
)
from trainer.objective.build import Objective, build_objective
from trainer.ranks.mesh import Mesh, join, seed_everything
from trainer.ranks.stop import StopRequests
from trainer.ranks.watchdog import Watchdog
from trainer.rules.layouts import check_layout, settle_precision
from trainer.rules.pretrain import check_pretrain
from trainer.run import directory as run_directory
from trainer.run.lock import RunLock
from trainer.run.micro_batch import find_micro_batch
from trainer.run.resume import check_fetched, find_resume, with_kept_precision
from trainer.run.summary import announce
from trainer.track.metrics import flops_per_token, peak_flops
from trainer.track.sinks.sink import Start
from trainer.track.sinks.wandb_run import choose_mode
from trainer.track.tracker import Tracker


def main(config: Pretrain) -> int:
    """Runs one rank of a pretraining run, or goes on with it; the exit code.

    A signal ends it before its first step; after that it is a stop request.
    """
    with StopRequests() as stops, RunLock() as lock, Watchdog(config.health.hang_timeout_s) as watchdog:
        return run(config, stops, lock, watchdog)


def run(config: Pretrain, stops: StopRequests, lock: RunLock, watchdog: Watchdog) -> int:
    """The recipe."""
    world_size = int(os.environ["WORLD_SIZE"])
    check_pretrain(config, world_size)
    config = run_directory.with_absolute_places(config)
    model_config = find_model(config.model, run_directory.locate(config))
    require_suitable(config, model_config)
    load_nvme_op(config.parallel)
    mesh = join(
        tensor=config.parallel.tensor, sequence=config.parallel.sequence, hang_timeout_s=config.health.hang_timeout_s
    )
    if mesh.device.type == "cpu":
        keep_freed_memory()
    seed_everything(config.seed, deterministic=config.train.deterministic)
    mesh.main_finds(lambda: choose_mode(config.track.wandb))  # refuses online without a key

    training = open_training(config.data)
    validation = open_validation(config.data) if config.evaluate.every > 0 else []
    test = [open_test(config.data)] if config.evaluate.test else []
    require_same_tokenizer(training + validation + test)
    config = fit_to_data(config, model_config, training, validation)
    check_shards(training + validation + test, config.data.verify_bytes, mesh)
    run_dir = enter_run_directory(config, mesh, lock)
    watchdog.start(run_dir, mesh)
    config = with_length(dataclasses.replace(config, data=with_absolute_paths(config.data)))

    store = ObjectStore(config.checkpoint.dir) if config.checkpoint.dir else None
    if store is not None:
        fetch_newest(store, run_dir, mesh, lambda folder: check_fetched(folder, config, training))
    reader = find_resume(run_dir, config, mesh, training)
    config = settle_numbers(config, reader, mesh)
    progress = reader.stated("progress", Progress.from_json) if reader else Progress()
    history = (reader.stated("history", History.from_json) if reader else History([], [])).go_on(
        step=progress.step,
        position=progress.position,
        batch_size=config.train.batch_size,
        rows=[dataset.rows for dataset in training],
        weights=weights_of(config.data),
    )
    total_steps = total_steps_of(config, history)
    if nothing_left(run_dir, mesh, progress, total_steps):
        copy_last(store, reader, mesh)
        return already_finished(run_dir, mesh, progress)
    if config.train.stop_at is not None and progress.step >= config.train.stop_at:
        copy_last(store, reader, mesh)
        return already_stopped(run_dir, mesh, progress)
    mesh.main_finds(lambda: keep_model(run_dir, config.model, model_config, resumed=reader is not None))
    model_config = own_model(config.model, run_dir)
    shapes = parameter_shapes(model_config)
    origin = (
        None
        if reader
        else open_initial_weights(
            config.model, training[0].manifest, shapes, mesh, sequence_length=config.data.sequence_length
        )
    )
    micro_batch_size = find_micro_batch(config, model_config, mesh, run_dir, device_name(mesh))
    config = with_values(config, {"train.micro_batch_size": micro_batch_size})
    if mesh.is_main:
        if reader:
            print(f"going on from {reader.folder}", flush=True)
        remove_attempts(run_dir)
        run_directory.describe(run_dir, config, training[0].manifest.folder / "tokenizer")
        write_json(run_dir / HISTORY, history.to_json())

    assembly = assemble(config, model_config, shapes, mesh, weights=origin or initial_source(model_config, config.seed))
    engine, partition = assembly.engine, assembly.partition
    if reader:
        reader.check_shapes(shapes)
        fragments.restore(engine, partition, reader.read, steps=progress.step)
    elif origin and has_bf16_weights(config):
        fragments.restore(engine, partition, origin, steps=0)  # DeepSpeed made its fp32 weights of rounded ones
    require_causal(engine.module, config.data.sequence_length)
    if config.data.mask_documents:
        require_separation(engine.module, config.data.sequence_length)
    if config.train.compile:
        compile_parts(engine.module)

    parameters, active = sum(map(math.prod, shapes.values())), count_active_parameters(shapes, model_config)
    tracker = open_tracker(run_dir, config, mesh, training + validation, (parameters, active), progress, total_steps)
    objective = build_objective(config, end_of_text=training[0].manifest.end_of_text)
    evaluation = LossEvaluator(
        objective, engine, validation, config.evaluate, mesh, beat=lambda: watchdog.beat("evaluate")
    )
    hooks = build_hooks(config, assembly, mesh)
    for hook in hooks:
        hook.begin(reader)
    state = {"history": history.to_json(), "tokenizer_sha256": training[0].manifest.tokenizer_sha256}
    say = tracker.note if tracker is not None else print
    writer = CheckpointWriter(run_dir, mesh, config.checkpoint, say, store)
    trainer = Trainer(
        config=config,
        mesh=mesh,
        engine=engine,
        optimizer=assembly.optimizer,
        objective=objective,
        steps=open_steps(config, mesh, training, history, objective, progress.position),
        progress=progress,
        total_steps=total_steps,
        pace=history.position_after if config.train.tokens is not None else None,
        utilisation=measure_utilisation(config, model_config, mesh, active),
        log=tracker,
        evaluators=[evaluation],
        save=lambda last: save(
            writer, config, mesh, owned_fragments(assembly, mesh, hooks), progress, state, last=last
        ),
        watchdog=watchdog,
        hooks=hooks,
    )
    stops.attach(mesh, run_dir)
    with closing(tracker) as ending, writer:
        reason = trainer.run(stops)
        if reason is None and not evaluation.latest and config.evaluate.every > 0:
            evaluation.run()  # a run killed after its last checkpoint, before its outcome was written
        watchdog.beat("end")
        if reason is None:
            scores = [*evaluation.latest, *score_test(dataclasses.replace(evaluation, sets=test), progress, tracker)]
        if tracker is not None and reason is None:
            announce(run_dir, config, progress, training, scores, tracker)
        elif tracker is not None:
            run_directory.record_stop(run_dir, str(reason), progress.step)
            stops.honour()
            tracker.note(f"stopped ({reason}) after step {progress.step}, checkpointed; the same command goes on")
        ending.exit_code = 0 if reason is None else STOPPED
    mesh.leave()
    return ending.exit_code


def fit_to_data(config: Pretrain, model_config: Model, training: list[Dataset], validation: list[Dataset]) -> Pretrain:
    """With the vocabulary filled in; refuses a model or an evaluation that the data don't fit."""
    manifest = training[0].manifest
    if model_config.path is not None:
        require_vocabulary(model_config, manifest.vocab_size, manifest.folder)
    elif config.model.vocab_size is None:
        config = with_values(config, {"model.vocab_size": manifest.vocab_size})
    elif config.model.vocab_size < manifest.vocab_size:
        raise ConfigError(
            f"model.vocab_size={config.model.vocab_size} is below the {manifest.vocab_size} of the tokenizer of "
            f"{manifest.folder}: leave it out or raise it."
        )
    names = [dataset.name for dataset in validation]
    if (config.evaluate.patience or config.checkpoint.keep_best) and config.evaluate.watch not in names:
        raise ConfigError(
            f"evaluate.watch={config.evaluate.watch}: no such validation set; "
            f"{'choose one of ' + ', '.join(names) if names else 'give data.validation.NAME.path'}."
        )
    return config


def check_shards(datasets: list[Dataset], most_bytes: int, mesh: Mesh) -> None:
    """Refuses a damaged shard, on every rank; datasets above `most_bytes` are left to "banyan data verify"."""
    for dataset in datasets:
        if sum(shard.bytes for shard in dataset.manifest.shards) <= most_bytes:
            damage = mesh.first(find_damage(dataset, part=mesh.rank, parts=mesh.world_size))
            if damage:
                raise InputError(damage)


def enter_run_directory(config: Pretrain, mesh: Mesh, lock: RunLock) -> Path:
    """The run directory, made and locked by rank 0; every rank's log goes there from now on."""
    run_dir = mesh.from_main(run_directory.locate(config))
    mesh.main_finds(lambda: run_directory.create(run_dir))
    mesh.main_finds(lambda: lock.take(run_dir, config.run.lock_timeout_s))
    run_directory.log_to_file(run_dir, mesh.rank)
    return run_dir


def fetch_newest(store: ObjectStore, run_dir: Path, mesh: Mesh, check: Callable[[Path], None]) -> None:
    """Fetches what checkpoint.dir has that is whole, newer than the run directory's and passes `check`; says so."""
    for line in mesh.main_finds(lambda: store.fetch_newest(run_dir, check)):
        if mesh.is_main:
            print(f"banyan: {line}", flush=True)


def copy_last(store: ObjectStore | None, reader: CheckpointReader | None, mesh: Mesh) -> None:
    """Where nothing is left to train: copies the last checkpoint to checkpoint.dir if the former start couldn't."""
    if store is not None and reader is not None:
        mesh.main_finds(lambda: store.upload_if_missing(reader.folder))


def settle_numbers(config: Pretrain, reader: CheckpointReader | None, mesh: Mesh) -> Pretrain:
    """With the precision filled in, the same on every rank, of a run that goes on the checkpoint's.

    Refuses one that the layout or the devices can't be given.
    """
    if reader is not None:
        config = with_kept_precision(config, reader)
    lacking = mesh.first(None if multiplies_bf16(mesh.device) else "bf16")
    precision = settle_precision(config, mesh.world_size, native_bf16=lacking is None)
    config = with_values(config, {"train.precision": precision})
    check_layout(config, mesh.world_size)
    if precision == "fp8":
        require_float8(mesh.device)
    return config


def nothing_left(run_dir: Path, mesh: Mesh, progress: Progress, total_steps: int) -> bool:
    """Whether all steps are taken and the outcome is written."""
    ended = progress.step >= total_steps or progress.out_of_patience
    return mesh.from_main(ended and (run_dir / "summary.txt").is_file())


def already_finished(run_dir: Path, mesh: Mesh, progress: Progress) -> int:
    """Says that nothing is left to do, and how it ended."""
    if mesh.is_main:
        why = (
            f"lost patience at step {progress.step}" if progress.out_of_patience else f"took all {progress.step} steps"
        )
        print(f"{run_dir}: finished before ({why}); a new run.name, or another seed, begins a new run")
        print((run_dir / "summary.txt").read_text(encoding="utf-8", errors="replace"), end="", flush=True)
    mesh.leave()
    return 0


def already_stopped(run_dir: Path, mesh: Mesh, progress: Progress) -> int:
    """Says that train.stop_at was reached before."""
    if mesh.is_main:
        print(f"{run_dir}: at step {progress.step} already; without train.stop_at, or with a later one, it goes on")
    mesh.leave()
    return STOPPED


def device_name(mesh: Mesh) -> str:
    """What the ranks run on: a GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if mesh.device.type == "cuda" else "cpu"


def open_steps(
    config: Pretrain, mesh: Mesh, training: list[Dataset], history: History, objective: Objective, position: int
) -> Iterator[Step]:
    """This rank's micro-batches from `position` on, by step, each step with the targets of its global batch."""
    rows = [dataset.rows for dataset in training]
    loader = Loader(
        datasets=training,
        order=Order(rows, history.segments, seed=config.seed, window=config.data.shuffle_shards),
        batch_size=config.train.batch_size,
        micro_batch_size=micro_batch_of(config.train, mesh.data_size),
        rank=mesh.data_rank,
        world_size=mesh.data_size,
        to_batch=objective.to_batch,
        prefetch=config.data.prefetch,
    )
    micro_steps, per_row = accumulation_steps(config, mesh.data_size), objective.targets_per_row()
    if per_row is None:
        return counted_steps(loader.batches(position), micro_steps=micro_steps, mesh=mesh)
    return fixed_steps(loader.batches(position), micro_steps=micro_steps, targets=per_row * config.train.batch_size)


def build_hooks(config: Pretrain, assembly: Assembly, mesh: Mesh) -> list[Hook]:
    """What goes along with the training of this run."""
    hooks: list[Hook] = []
    if config.train.ema is not None:
        held = fragments.held_fragments(assembly.engine, assembly.partition, moments=False)
        hooks.append(WeightAverage(held, config.train.ema))
    if assembly.model.tally is not None:
        hooks.append(ExpertLoad(assembly.model.tally, mesh))
    return hooks


def owned_fragments(assembly: Assembly, mesh: Mesh, hooks: list[Hook]) -> Iterator[Fragment]:
    """What this rank saves: weights, moments, and what the hooks keep of them."""

    def extend(fragment: Fragment) -> Fragment:
        for hook in hooks:
            fragment = hook.extend(fragment)
        return fragment

    return fragments.owned_fragments(assembly.engine, assembly.partition, mesh, extend)


def measure_utilisation(config: Pretrain, model: Model, mesh: Mesh, active: int) -> Utilisation | None:
    """What MFU is reckoned with; None where the device's peak isn't known, as on a CPU, or the model's FLOPs aren't."""
    peak = peak_flops(torch.cuda.get_device_name()) if mesh.device.type == "cuda" else None
    sizes = attention_sizes(model)
    if peak is None or sizes is None:
        return None
    layers, heads, head_dim = sizes
    per_token = flops_per_token(
        parameters=active,
        layers=layers,
        heads=heads,
        head_dim=head_dim,
        sequence_length=config.data.sequence_length,
    )
    return Utilisation(flops_per_token=per_token, peak_flops_per_second=peak * mesh.world_size)


def open_tracker(
    run_dir: Path,
    config: Pretrain,
    mesh: Mesh,
    datasets: list[Dataset],
    sizes: tuple[int, int],
    progress: Progress,
    total_steps: int,
) -> Tracker | None:
    """Rank 0's tracker, after a line that says what begins; None on other ranks. `sizes`: parameters, active ones."""
    if not mesh.is_main:
        return None
    parameters, active = sizes
    facts = {
        "fingerprints": {dataset.name: dataset.manifest.fingerprint for dataset in datasets},
        "git_commit": run_directory.git_commit(),
        "world_size": mesh.world_size,
        "device": device_name(mesh),
        "parameters": parameters,
        "active_parameters": active,
    }
    size = f"{parameters / 1e6:.1f}M parameters"
    if active < parameters:
        size += f" ({active / 1e6:.1f}M active per token)"
    ranks = f"{mesh.world_size} rank{'s' * (mesh.world_size > 1)}"
    degrees = {"tensor": mesh.tensor, "sequence": mesh.sequence}
    shared = "".join(f", {name} parallel {degree}" for name, degree in degrees.items() if degree > 1)
    padding = padding_of(config, mesh.data_size)
    waste = f", {padding:.0%} of each step's micro-batches empty" if padding > 0 else ""
    print(
        f"{config.model.name}: {size} on {ranks} ({facts['device']}), ZeRO stage {config.parallel.zero_stage}{shared}, "
        f"{config.train.precision}{waste}; run directory {run_dir}",
        flush=True,
    )
    if config.train.precision == "fp32" and multiplies_bf16(mesh.device):
        print("bf16 is native here and should be faster: train.precision=bf16")
    return Tracker.open(
        Start(run_dir, config, resolved(config), facts, start_step=progress.step, total_steps=total_steps)
    )


@contextlib.contextmanager
def closing(tracker: Tracker | None) -> Iterator[SimpleNamespace]:
    """Closes the tracker with the exit code that the body leaves in what it is given: 1 if it raises."""
    ending = SimpleNamespace(exit_code=1)
    try:
        yield ending
    finally:
        if tracker is not None:
            tracker.close(exit_code=ending.exit_code, summary={})


def score_test(evaluation: LossEvaluator, progress: Progress, tracker: Tracker | None) -> list[tuple[Dataset, Score]]:
    """Scores the test set once, at the end, where evaluate.test asks for it. Every rank calls it."""
    metrics = evaluation.run() if evaluation.sets else {}
    if tracker is not None and metrics:
        tracker.log(step=progress.step, tokens=progress.tokens, metrics=metrics)
    return evaluation.latest if evaluation.sets else []


def save(
    writer: CheckpointWriter,
    config: Pretrain,
    mesh: Mesh,
    owned: Iterator[Fragment],
    progress: Progress,
    data_state: dict[str, Any],
    *,
    last: bool,
) -> None:
    """Begins a checkpoint of `progress`; with `last`, ends it too. Every rank calls it."""
    state = {
        "step": progress.step,
        "position": progress.position,
        "tokens": progress.tokens,
        "progress": progress.to_json(),
        "shape": {"world_size": mesh.world_size, **dataclasses.asdict(config.parallel)},
        "config": resolved(config),
        "time": time.time(),
        **data_state,
    }
    best = progress.best_step if config.checkpoint.keep_best else None
    writer.save(owned, state, best=best, last=last)
