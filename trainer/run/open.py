"""Entering a run: its data and directory are checked, numbers settled; and what is said where nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from trainer.checkpoint.object_store import ObjectStore
from trainer.checkpoint.reader import CheckpointReader
from trainer.config import AUTO, Data, Model, Pretrain
from trainer.config.plain_values import with_values
from trainer.config.run import writers_of
from trainer.data.tokens.dataset import Dataset, find_damage, find_missing_file
from trainer.data.tokens.datasets import widest
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.packing import STREAM
from trainer.engine.bf16 import device_multiplies_bf16
from trainer.engine.float8 import require_float8, require_float8_blocks
from trainer.engine.initial_weights import added_tokens
from trainer.engine.loop import Progress
from trainer.errors import STOPPED, ConfigError, InputError, require
from trainer.machine.c_compiler import compiler_problem
from trainer.machine.hub_name import local_folder
from trainer.machine.sealed_folder import check_sealed, seal_folder
from trainer.machine.sealing.keyring import KEYRING
from trainer.model.hugging_face.init_folder import find_init_folder, hf_folder
from trainer.model.hugging_face.inner_folder import has_weights
from trainer.model.hugging_face.suitability import (
    require_vocabulary,
)
from trainer.model.hugging_face.vocabulary import widened_to
from trainer.objective.build import extra_ids_of
from trainer.ranks.mesh import Mesh
from trainer.rules.compiled import settle_compile
from trainer.rules.layouts import check_layout, settle_precision
from trainer.run import directory as run_directory
from trainer.run.data_vocabulary import with_data_vocabulary
from trainer.run.lock import RunLock
from trainer.run.rank_log import RankLog
from trainer.run.resume import with_kept_precision


def fit_to_data(config: Pretrain, model_config: Model, training: list[Dataset], validation: list[Dataset]) -> Pretrain:
    """With the vocabulary filled in; refuses a model or an evaluation that the data don't fit."""
    manifest = widest(training).manifest
    if model_config.path is not None:
        model = widened_to(model_config, manifest.vocab_size) if added_to(model_config, manifest) else model_config
        extra = extra_ids_of(config.objective, config.data, manifest)
        require_vocabulary(model, manifest.vocab_size, manifest.folder, extra=extra)
    config = with_trained_embeddings(with_data_vocabulary(config, manifest), manifest)
    size = config.model.vocab_size
    if model_config.path is None and size is not None and size < manifest.vocab_size:
        raise ConfigError(
            f"model.vocab_size={size} is below the {manifest.vocab_size} of the tokenizer of "
            f"{manifest.folder}: leave it out or raise it."
        )
    names = [dataset.name for dataset in validation]
    watched = bool(config.evaluate.patience or config.checkpoint.keep_best)
    of_tasks = "/" in config.evaluate.watch and bool(config.evaluate.tasks)
    if watched and not of_tasks and config.evaluate.watch not in names:
        tasks = ", or TASK/METRIC of evaluate.tasks" if config.evaluate.tasks else ""
        raise ConfigError(
            f"evaluate.watch={config.evaluate.watch}: no such validation set; "
            f"{'choose one of ' + ', '.join(names) if names else 'give data.validation.NAME.path'}{tasks}."
        )
    return config


def with_trained_embeddings(config: Pretrain, manifest: Manifest) -> Pretrain:
    """With the embeddings trained beside adapters where the data have tokens that the weights don't know."""
    if config.adapt.name == "lora" and added_to(config.model, manifest):
        return with_values(config, {"adapt.embeddings": True})
    return config


def added_to(model: Model, manifest: Manifest) -> range:
    """Ids that the data's tokenizer has, and that of the weights which the model begins with doesn't know."""
    if model.init_from:
        return added_tokens(find_init_folder(model.init_from), manifest)
    if model.path is None or not has_weights(folder := local_folder(model.path)):
        return range(0)
    return added_tokens(hf_folder(folder), manifest)


def check_packing(data: Data, training: list[Dataset]) -> None:
    """Refuses data.mask_documents where the end-of-text token, by which it knows documents, may be inside one."""
    for dataset in training:
        if data.mask_documents and data.packing == STREAM and dataset.manifest.has_targets:
            raise ConfigError(
                f"data.mask_documents=true: documents of {dataset.manifest.folder} may hold end-of-text tokens; use "
                "data.packing=whole, which masks them from each other, or data.mask_documents=false."
            )


def check_shards(datasets: list[Dataset], most_bytes: int, mesh: Mesh) -> None:
    """Refuses a missing or damaged shard, on every rank; each looks at its share of the files.

    Datasets above `most_bytes` aren't hashed, which is left to "banyan data verify".
    """
    remote = [dataset for dataset in datasets if dataset.remote is not None]
    if remote:
        _require_same_manifests(remote, mesh)
    share = {"part": mesh.rank, "parts": mesh.world_size}
    checks = [partial(find_missing_file, dataset, **share) for dataset in datasets]
    checks += [partial(find_damage, dataset, **share) for dataset in datasets if bytes_of(dataset) <= most_bytes]
    problem = mesh.first(next(filter(None, (check() for check in checks)), None))
    if problem:
        raise InputError(problem)


def _require_same_manifests(datasets: list[Dataset], mesh: Mesh) -> None:
    """Refuses data that changed while the ranks started: each node has looked for itself."""
    own = [dataset.manifest.fingerprint for dataset in datasets]
    others = mesh.first("differ" if mesh.from_main(own) != own else None)
    if others:
        raise InputError("data.path: manifest.json was replaced while the run started; start it again.")


def bytes_of(dataset: Dataset) -> int:
    """Of all its shards."""
    return sum(shard.bytes for shard in dataset.manifest.shards)


def enter_run_directory(config: Pretrain, mesh: Mesh, lock: RunLock, log: RankLog) -> Path:
    """The run directory, made and locked by rank 0; every rank's log goes there from now on."""
    run_dir = mesh.from_main(run_directory.locate(config))
    mesh.main_finds(lambda: run_directory.create(run_dir))
    mesh.main_finds(lambda: lock.take(run_dir, config.run.lock_timeout_s))
    mesh.main_finds(lambda: seal_run(run_dir, config))
    KEYRING.look_again()
    log.open(run_dir, mesh.rank)
    return run_dir


def seal_run(run_dir: Path, config: Pretrain) -> None:
    """Has the run's tokenizer, and its checkpoints where asked, encrypted. KeyProblem where the key is another."""
    wanted = config.data.encryption.source is not None
    check_sealed(run_dir, "run.dir", wanted=wanted)
    if wanted:
        seal_folder(run_dir, ("tokenizer/*", *(("checkpoints/*/rank-*.safetensors",) * config.checkpoint.encrypt)))


def fetch_newest(object_store: ObjectStore, run_dir: Path, mesh: Mesh, check: Callable[[Path], None]) -> None:
    """Fetches what checkpoint.dir has that is whole, newer than the run directory's and passes `check`; says so."""
    for line in object_store.fetch_newest(run_dir, mesh, check):
        if mesh.is_main:
            print(f"banyan: {line}", flush=True)


def copy_last(object_store: ObjectStore | None, reader: CheckpointReader | None, mesh: Mesh) -> None:
    """Where nothing is left to train: copies the last checkpoint to checkpoint.dir if the former start couldn't."""
    if object_store is not None and reader is not None:
        object_store.upload_if_missing(reader.folder, mesh)


def settle_numbers(config: Pretrain, reader: CheckpointReader | None, mesh: Mesh) -> Pretrain:
    """With the precision filled in, the same on every rank, of a run that goes on the checkpoint's; and the writers.

    Refuses one that the layout or the devices can't be given.
    """
    if reader is not None:
        config = with_kept_precision(config, reader)
    lacking = mesh.first(None if device_multiplies_bf16(mesh.device) else "bf16")
    precision = settle_precision(config, mesh.world_size, native_bf16=lacking is None)
    compiled = settle_on_devices(config, mesh)
    writers = writers_of(config.checkpoint, config.parallel.zero_stage)
    settled = {"train.precision": precision, "train.compile": compiled, "checkpoint.writers": writers}
    config = with_values(config, settled)
    if config.train.fp8_head:
        require_float8(mesh.device, "train.fp8_head=true", "train.fp8_head=false")
    check_layout(config, mesh.world_size)
    if precision == "fp8":
        require_float8_blocks(mesh.device)
    return config


def settle_on_devices(config: Pretrain, mesh: Mesh) -> bool:
    """train.compile, the same on every rank. GPUs that can't compile say why where it is AUTO, else ConfigError."""
    cuda = mesh.device.type == "cuda"
    if not cuda or not settle_compile(config, can_compile=True):
        return settle_compile(config, can_compile=False)
    lacking = mesh.first(compiler_problem())
    require(lacking is None or config.train.compile == AUTO, f"train.compile=true: {lacking}, or leave it out.")
    if lacking is not None and mesh.is_main:
        print(f"blocks aren't compiled, by which a GPU is about twice as fast: {lacking}", flush=True)
    return lacking is None


def nothing_left(run_dir: Path, mesh: Mesh, progress: Progress, total_steps: int) -> bool:
    """Whether all steps are taken and the summary is written."""
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
