"""Token shards → a trained model: what pretrain and finetune have in common, which is all but their defaults.

Read `train` from top to bottom: it is the map of what happens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.checkpoint.object_store import ObjectStore
from trainer.checkpoint.reader import CheckpointReader
from trainer.checkpoint.retention import remove_attempts
from trainer.checkpoint.writer import CheckpointWriter
from trainer.config import Pretrain
from trainer.config.batches import micro_batch_of
from trainer.config.encryption import use_key
from trainer.config.plain_values import with_values
from trainer.config.ramps import Ramps
from trainer.data.remote.left_out import RowsLeftOut
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.datasets import (
    look_ahead,
    open_test,
    open_training,
    open_validation,
    require_same_tokenizer,
    widest,
    with_absolute_paths,
    with_length,
)
from trainer.data.tokens.history import History, total_steps_of
from trainer.data.tokens.loader import Loader
from trainer.data.tokens.mixture import mixture_in
from trainer.data.tokens.order import Order
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.engine.assemble import Assembly, assemble, compile_parts
from trainer.engine.dataset_losses import DatasetLosses
from trainer.engine.deepspeed.offload import load_nvme_op
from trainer.engine.layer_stats import LayerStats
from trainer.engine.loop import Evaluator, Progress, Trainer, Watched
from trainer.engine.recheck import Recheck
from trainer.engine.row_losses import RowLosses
from trainer.engine.saving import saving_of
from trainer.engine.step_judge import STATE, StepJudge
from trainer.engine.step_times import StepTimes
from trainer.engine.stragglers import Stragglers
from trainer.engine.targets import Step, counted_steps, fixed_steps, plan_steps
from trainer.errors import STOPPED, ConfigError
from trainer.evaluate.answers import AnswerEvaluator, Questions, read_questions
from trainer.evaluate.loss import LossEvaluator, Score, cut_in_words
from trainer.evaluate.tasks.encode import RequestEncoder
from trainer.evaluate.tasks.in_loop import Judge, TaskEvaluator, check_watch, open_judge, read_tasks
from trainer.machine.process import keep_freed_memory
from trainer.model.build import (
    count_active_parameters,
    parameter_shapes,
)
from trainer.model.hugging_face.folder import find_model, keep_model, own_model
from trainer.model.hugging_face.suitability import require_suitable
from trainer.model.hugging_face.vocabulary import widened_to
from trainer.model.quantized import require_quantization
from trainer.objective.build import Objective, build_objective, check_datasets, members_of
from trainer.objective.distill import Distill
from trainer.ranks.mesh import Mesh, join, seed_everything
from trainer.ranks.stop import StopRequests
from trainer.ranks.watchdog import Watchdog
from trainer.run import directory as run_directory
from trainer.run.bad_steps import BadSteps, after_rewind, check_on_spike, optimizer_steps
from trainer.run.before import score_before
from trainer.run.frozen_model import check_asked_models, open_teacher, with_reference_precision
from trainer.run.left_out_rows import LeftOutRows
from trainer.run.lock import RunLock
from trainer.run.micro_batch import find_micro_batch
from trainer.run.objective import settle_objective
from trainer.run.open import (
    already_finished,
    already_stopped,
    check_packing,
    check_shards,
    copy_last,
    enter_run_directory,
    fetch_newest,
    fit_to_data,
    nothing_left,
    settle_numbers,
)
from trainer.run.rank_log import RankLog
from trainer.run.resume import check_fetched, find_resume
from trainer.run.saving import build_hooks, fragments_to_save, save
from trainer.run.spike_documents import worst_documents
from trainer.run.summary import announce_end
from trainer.run.tracking import closing, device_name, measure_utilisation, open_spike_watch, open_tracker
from trainer.run.weights import open_run_weights
from trainer.track.health_record import BAD_STEPS, RANKS, RECHECK
from trainer.track.spike_record import StepDocument
from trainer.track.tracker import Tracker
from trainer.track.wandb_service import choose_mode


def run_rank(config: Pretrain) -> int:
    """Runs one rank of a run whose configuration has been checked, or goes on with it; the exit code.

    A signal ends it before its first step; after that it is a stop request.
    """
    use_key(config)
    with StopRequests() as stops, RunLock() as lock, Watchdog(config.health.hang_timeout_s) as watchdog:
        with RankLog() as log:
            return train(config, stops, lock, watchdog, log)


def train(config: Pretrain, stops: StopRequests, lock: RunLock, watchdog: Watchdog, log: RankLog) -> int:
    """The recipe."""
    config = settle_objective(run_directory.with_absolute_places(config))
    model_config = find_model(config.model, run_directory.locate(config))
    require_suitable(model_config, config.train, config.parallel, sequence_length=config.data.sequence_length)
    load_nvme_op(config.parallel)
    mesh = join(
        tensor=config.parallel.tensor, sequence=config.parallel.sequence, hang_timeout_s=config.health.hang_timeout_s
    )
    require_quantization(config.adapt, mesh.device)
    keep_freed_memory()
    seed_everything(config.seed, deterministic=config.train.deterministic)
    mesh.main_finds(lambda: choose_mode(config.track.wandb))  # refuses online without a key

    members = members_of(config.objective)
    training = open_training(config.data, config.seed, members_of(config.objective, training=True))
    validation = open_validation(config.data, members) if config.evaluate.every > 0 else []
    test = [open_test(config.data, members)] if config.evaluate.test else []
    check_datasets(config.objective, training + validation + test)
    require_same_tokenizer(training + validation + test)
    check_packing(config.data, training)
    questions = open_questions(config, training)
    config = fit_to_data(config, model_config, training, validation)
    if model_config.path is not None:
        model_config = widened_to(model_config, widest(training).manifest.vocab_size)
    check_shards(training + validation + test, config.data.verify_bytes, mesh)
    run_dir = enter_run_directory(config, mesh, lock, log)
    watchdog.start(run_dir, mesh, log.descriptor)
    config = with_length(dataclasses.replace(config, data=with_absolute_paths(config.data)))
    judge = open_tasks_of_run(config, widest(training), mesh)

    object_store = ObjectStore(config.checkpoint.dir) if config.checkpoint.dir else None
    if object_store is not None:
        fetch_newest(object_store, run_dir, mesh, lambda folder: check_fetched(folder, config, training))
    reader = find_resume(run_dir, config, mesh, training)
    asked = [each.manifest for each in training], [each.manifest for each in validation + test]
    config = settle_numbers(with_reference_precision(config, asked[0]), reader, mesh)
    check_on_spike(config)
    check_asked_models(config, *asked, mesh, new=reader is None)
    progress = reader.stated("progress", Progress.from_json) if reader else Progress()
    rows = [dataset.rows for dataset in training]
    mixture, ramps = mixture_in(config.data, rows), Ramps.of(config.train, config.data)
    history = (reader.stated("history", History.from_json) if reader else History([], [])).go_on(
        step=progress.step,
        position=progress.position,
        ramps=ramps,
        rows=rows,
        mixture=mixture,
    )
    history = after_rewind(run_dir, history, progress, ramps, mesh)
    total_steps = total_steps_of(config, history)
    mixture.check_lasts(
        history.segments, rows, needed=history.position_after(total_steps), sequence_length=config.data.sequence_length
    )
    if nothing_left(run_dir, mesh, progress, total_steps):
        copy_last(object_store, reader, mesh)
        return already_finished(run_dir, mesh, progress)
    if config.train.stop_at is not None and progress.step >= config.train.stop_at:
        copy_last(object_store, reader, mesh)
        return already_stopped(run_dir, mesh, progress)
    mesh.main_finds(lambda: keep_model(run_dir, config.model, model_config, resumed=reader is not None))
    model_config = own_model(config.model, run_dir)
    shapes = parameter_shapes(model_config)
    weights = open_run_weights(config, model_config, shapes, widest(training).manifest, reader, run_dir, mesh)
    micro_batch_size = find_micro_batch(config, model_config, mesh, run_dir, device_name(mesh))
    config = with_values(config, {"train.micro_batch_size": micro_batch_size})
    if mesh.is_main:
        if reader:
            print(f"going on from {reader.folder}", flush=True)
        ramp = history.ramp_in_words(progress.step, config.data.sequence_length)
        for line in filter(None, (ramp, *(dataset.describe_packing() for dataset in training))):
            print(line, flush=True)
        for cut in filter(None, (cut_in_words(dataset, config.evaluate) for dataset in validation + test)):
            print(cut, flush=True)
        for line in (line for each in judge.sets for line in each.described()) if judge else ():
            print(line, flush=True)
        remove_attempts(run_dir)
        run_directory.write_description(run_dir, config, history, widest(training).manifest.folder / "tokenizer")

    assembly = assemble(config, model_config, weights.shapes, mesh, weights.base)
    engine = assembly.engine
    if reader:
        reader.check_shapes(weights.trained)
    weights.restore(assembly, steps=optimizer_steps(history, progress.step))
    objective = build_objective(config.objective, config.data, widest(training).manifest, seed=config.seed)
    if isinstance(objective, Distill):
        objective = objective.taught_by(open_teacher(config, mesh.device))
    objective.check_model(engine.module)
    if config.train.compile:
        compile_parts(engine.module, dynamic=False if config.data.length_ramp else None)

    parameters, active = sum(map(math.prod, shapes.values())), count_active_parameters(shapes, model_config)

    def documents(step: int, row_losses: Sequence[float | None] | None) -> Sequence[StepDocument]:
        return worst_documents(config, training, bad_steps.history, step, row_losses)

    sizes = parameters, active
    tracker = open_tracker(
        run_dir, config, model_config, mesh, training + validation, sizes, progress, total_steps, documents
    )
    say = tracker.note if tracker is not None else print
    say_health = partial(partial, tracker.health) if tracker is not None else lambda about: print
    beat = partial(watchdog.beat, "evaluate")
    evaluation = LossEvaluator(objective, engine, validation, config.evaluate, mesh, beat=beat, say=say)
    answering = AnswerEvaluator(questions, engine, config.evaluate, mesh, partial(log_text, tracker, progress), beat)
    evaluators: list[Evaluator] = [evaluation, answering]
    if judge is not None:
        evaluators.append(TaskEvaluator(judge, engine, config.evaluate, mesh, beat=beat, say=say))
    hooks = build_hooks(config, assembly, mesh, progress, run_dir)
    times = StepTimes(mesh.device, config.health.timing_every) if config.health.timing_every else None
    reading: dict[str, float] = {}
    if times is not None:
        hooks.append(Stragglers(mesh, config.health.timing_every, times, lambda: reading, say_health(RANKS)))
    for hook in hooks:
        hook.begin(reader)
    writer = CheckpointWriter(run_dir, mesh, config.checkpoint, say, object_store)
    if reader:
        writer.copy_again(reader.folder)
    order = Order(
        rows,
        history.segments,
        seed=config.seed,
        window=config.data.shuffle_shards,
    )
    judge_steps = None if config.health.on_spike == "log" else StepJudge(config.health, mesh)
    if judge_steps is not None and reader is not None:
        reader.stated_if_any(STATE, judge_steps.restore)

    left_out = RowsLeftOut()

    def restore(reader: CheckpointReader, steps: int) -> None:
        """All that a checkpoint of this run holds, once more."""
        open_run_weights(config, model_config, shapes, widest(training).manifest, reader, run_dir, mesh).restore(
            assembly, steps=steps
        )
        for hook in hooks:
            hook.begin(reader)
        if judge_steps is not None:
            reader.stated_if_any(STATE, judge_steps.restore)
        if tracker is not None:
            tracker.rewind(step=progress.step)

    bad_steps = BadSteps(
        config=config,
        mesh=mesh,
        run_dir=run_dir,
        history=history,
        progress=progress,
        writer=writer,
        restore=restore,
        open_steps=partial(
            open_steps, config, mesh, training, order, objective, reading, left_out, progress, total_steps
        ),
        say=say_health(BAD_STEPS),
        record=partial(record_bad_step, tracker, progress),
    )

    accounts: list[LeftOutRows] = []
    if any(dataset.remote is not None and dataset.remote.skips for dataset in training):
        keep, history_now = partial(setattr, bad_steps, "history"), lambda: bad_steps.history
        accounts.append(LeftOutRows(mesh, run_dir, progress, left_out, history=history_now, keep=keep, say=say))
        accounts[0].begin(reader)
        hooks.extend(accounts)

    def state_beside() -> dict[str, Any]:
        """Of a checkpoint's state, what isn't progress or configuration."""
        for account in accounts:
            account.collect()
        spikes = {STATE: judge_steps.state()} if judge_steps is not None else {}
        tokenizer_sha256 = widest(training).manifest.tokenizer_sha256
        return {"history": bad_steps.history.to_json(), "tokenizer_sha256": tokenizer_sha256, **spikes}

    trainer = Trainer(
        config=config,
        mesh=mesh,
        engine=engine,
        optimizer=assembly.optimizer,
        objective=objective,
        steps=bad_steps.open_steps(progress.position),
        progress=progress,
        total_steps=total_steps,
        pace=(lambda step: bad_steps.history.trained_after(step)) if config.train.tokens is not None else None,
        utilisation=measure_utilisation(config, model_config, mesh, active),
        log=tracker,
        evaluators=evaluators,
        watched=watched_of(config, judge),
        save=lambda last: save(
            writer, config, mesh, fragments_to_save(assembly, mesh, hooks), progress, state_beside(), last=last
        ),
        saving=saving_of(config.checkpoint, mesh, run_dir, progress.step, say),
        watchdog=watchdog,
        hooks=hooks,
        by_dataset=DatasetLosses(rows, order, config.data.sequence_length) if len(training) > 1 else None,
        by_row=RowLosses() if config.track.spike_documents else None,
        judge=judge_steps,
        mind_bad_steps=bad_steps,
        spikes=open_spike_watch(config, tracker, progress),
        times=times,
        recheck=Recheck(config.health, mesh, engine, objective, say_health(RECHECK)) if config.health.recheck else None,
        layers=open_layer_stats(config, assembly, mesh, run_dir),
    )
    if config.evaluate.at_start and config.evaluate.every > 0 and progress.step == 0:
        score_before(run_dir, evaluation, mesh, tracker)
        answering.run()
    stops.attach(mesh, run_dir)
    with closing(tracker, run_dir) as ending, writer:
        reason = trainer.run(stops)
        if reason is None and not evaluation.latest and config.evaluate.every > 0:
            evaluation.run()  # a run killed after its last checkpoint, before its summary was written
        watchdog.beat("end")
        if reason is None:
            scores = [*evaluation.latest, *score_test(dataclasses.replace(evaluation, sets=test), progress, tracker)]
        if tracker is not None and reason is None:
            announce_end(run_dir, config, progress, training, scores, parameters, tracker, objective.scale)
        elif tracker is not None:
            run_directory.record_stop(run_dir, str(reason), progress.step)
            stops.honour()
            tracker.note(f"stopped ({reason}) after step {progress.step}, checkpointed; the same command goes on")
        ending.exit_code = 0 if reason is None else STOPPED
    mesh.leave()
    return ending.exit_code


def open_tasks_of_run(config: Pretrain, dataset: Dataset, mesh: Mesh) -> Judge | None:
    """The tasks of a run, if it has some; refuses an evaluate.watch that isn't among them. Every rank calls it."""
    if not config.evaluate.tasks or config.evaluate.tasks_every == 0:
        return None
    encoder = RequestEncoder(load_tokenizer(dataset.manifest.folder / "tokenizer"), config.data.sequence_length)
    judge = open_judge(
        read_tasks(config.evaluate, mesh, may_download=config.run.allow_download, in_loop=True), encoder, mesh
    )
    if "/" in config.evaluate.watch:
        check_watch(config.evaluate.watch, judge)
    if judge.work.prompts and mesh.sequence > 1:
        raise ConfigError(
            f"parallel.sequence={mesh.sequence}: evaluate.tasks has tasks that generate, for which rows must be whole; "
            "leave those out, or judge by banyan evaluate."
        )
    return judge


def open_layer_stats(config: Pretrain, assembly: Assembly, mesh: Mesh, run_dir: Path) -> LayerStats | None:
    """Statistics of layers, where health.layers_every asks for them."""
    every = config.health.layers_every
    return (
        LayerStats(assembly, mesh, every=every, run_dir=run_dir, compiled=bool(config.train.compile)) if every else None
    )


def watched_of(config: Pretrain, judge: Judge | None) -> Watched:
    """What evaluate.watch names: a metric of a task, or the loss on a validation set."""
    name = config.evaluate.watch
    if judge is not None and "/" in name:
        return Watched(f"eval/{name}", higher_is_better=judge.metrics[name])
    return Watched(f"eval/{name}/loss")


def open_steps(
    config: Pretrain,
    mesh: Mesh,
    training: list[Dataset],
    order: Order,
    objective: Objective,
    reading: dict[str, float],
    left_out: RowsLeftOut,
    progress: Progress,
    total_steps: int,
    position: int,
) -> Iterator[Step]:
    """This rank's micro-batches from `position` on, by step, each step with the targets of its global batch.

    `reading` gets the seconds that each dataset has been read for, `left_out` the rows that can't be had.
    """
    ramps, micro_batch_size = Ramps.of(config.train, config.data), micro_batch_of(config.train, mesh.data_size)
    steps_left = max(0, min(total_steps, config.train.stop_at or total_steps) - progress.step)
    stop = next(islice(ramps.steps(position), steps_left, None))[0]
    loader = Loader(
        datasets=training,
        order=order,
        ramps=ramps,
        micro_batch_size=micro_batch_size,
        rank=mesh.data_rank,
        world_size=mesh.data_size,
        to_batch=objective.to_batch,
        prefetch=config.data.prefetch,
        reading=reading,
        lookahead=look_ahead(training, order, start=position, stop=stop),
        left_out=left_out,
    )
    plans = plan_steps(ramps, position, micro_batch_size=micro_batch_size, ranks=mesh.data_size)
    per_row = objective.units_per_row()
    if per_row is None or any(dataset.is_uneven for dataset in training):
        return counted_steps(loader.batches(position), plans, mesh=mesh, units=objective.units)
    return fixed_steps(loader.batches(position), plans, targets_per_row=per_row)


def open_questions(config: Pretrain, training: list[Dataset]) -> Questions | None:
    """What is asked in the loop."""
    if not config.evaluate.prompts or not config.evaluate.every:
        return None
    tokenizer = run_directory.load_run_tokenizer(widest(training).manifest.folder)
    return read_questions(config.evaluate, tokenizer, context_length=config.data.sequence_length)


def log_text(tracker: Tracker | None, progress: Progress, name: str, text: str) -> None:
    """Logs a text of the moment, and shows it; ranks other than 0 have no tracker."""
    if tracker is not None:
        tracker.text(step=progress.step, name=name, text=text)
        tracker.note(text)


def record_bad_step(tracker: Tracker | None, progress: Progress, step: int, outcome: str) -> None:
    """Takes down a step that is skipped or rewound; ranks other than 0 have no tracker."""
    if tracker is not None:
        tracker.spike(step=step, tokens=progress.tokens, outcome=outcome)


def score_test(evaluation: LossEvaluator, progress: Progress, tracker: Tracker | None) -> list[tuple[Dataset, Score]]:
    """Scores the test set once, at the end, where evaluate.test asks for it. Every rank calls it."""
    metrics = evaluation.run() if evaluation.sets else {}
    if tracker is not None and metrics:
        tracker.log(step=progress.step, tokens=progress.tokens, metrics=metrics)
    return evaluation.latest if evaluation.sets else []
