"""The sets that a configuration names, opened: to train on, to validate, to test."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.config import Data, Train
from trainer.config.plain_values import Config, with_values
from trainer.data.remote.fetching import SKIP, Fetching
from trainer.data.remote.lookahead import Lookahead
from trainer.data.remote.mirror import find_mirror
from trainer.data.text.remote import is_remote
from trainer.data.tokens.dataset import Dataset, find_folder, open_dataset
from trainer.data.tokens.manifest import Manifest, read_manifest
from trainer.data.tokens.order import Order
from trainer.data.tokens.packing import STREAM, row_packing
from trainer.data.tokens.stream_rows import rows_by_shard
from trainer.data.tokens.tokenizer import tokenizer_sha256
from trainer.data.tokens.tokenizer_ids import extends
from trainer.errors import InputError


def open_training(data: Data, seed: int = 0, members: tuple[str, ...] = ()) -> list[Dataset]:
    """The training sets: data.path alone, or the mixture data.train. All have one tokenizer. `seed` is the run's.

    `members` are what its objective reads of blocks besides tokens.
    """
    how: dict[str, Any] = {
        "sequence_length": data.sequence_length,
        "packing": row_packing(data, seed),
        "members": members,
        "fetching": Fetching.of(data),
    }
    if data.path:
        return check_room([open_dataset("train", data.path, key="data.path", split="train", **how)], data)
    sets = [
        open_dataset(name, entry.path, key=f"data.train.{name}.path", split="train", **how)
        for name, entry in sorted(data.train.items())
    ]
    for position, dataset in enumerate(sets):
        for other in sets[:position]:
            if other.manifest.fingerprint == dataset.manifest.fingerprint:
                raise InputError(
                    f"data.train.{other.name} and data.train.{dataset.name} are the same dataset: "
                    "keep one and add the weights."
                )
    return check_room(sets, data)


def check_room(datasets: list[Dataset], data: Data) -> list[Dataset]:
    """The sets. Refuses a cache that can't hold what rows are shuffled in, or rows to skip that are of documents."""
    remote = [dataset for dataset in datasets if dataset.remote is not None]
    sizes = [sorted((s.bytes for s in dataset.manifest.shards), reverse=True) for dataset in remote]
    needed = sum(sum(each[: data.shuffle_shards]) for each in sizes)
    needed += sum(dataset.remote.index_bytes for dataset in remote if dataset.remote is not None)
    if needed > data.cache_bytes:
        raise InputError(
            f"data.cache_bytes={data.cache_bytes}: rows are shuffled in windows of data.shuffle_shards="
            f"{data.shuffle_shards} shards, which take up to {needed:,} bytes; raise data.cache_bytes, to twice that "
            "for the next window to come ahead of use, or begin a run with fewer data.shuffle_shards."
        )
    if remote and data.on_bad_shard == SKIP and data.packing != STREAM:
        raise InputError(
            f"data.on_bad_shard=skip with data.packing={data.packing}: how documents are laid into rows isn't known of "
            "a shard that can't be had; use data.on_bad_shard=stop or retry."
        )
    return datasets


def look_ahead(datasets: list[Dataset], order: Order, *, start: int, stop: int) -> Lookahead | None:
    """Fetches what a run needs from position `start` to before `stop`, ahead of use; None if nothing is fetched."""
    remote = {dataset.manifest.fingerprint: dataset.remote for dataset in datasets if dataset.remote is not None}
    if not remote:
        return None
    fetcher = next(iter(remote.values())).fetcher
    shards = {fingerprint: each.cached for fingerprint, each in remote.items()}
    last_shards = {dataset.manifest.fingerprint: dataset.last_shards for dataset in datasets}
    last_shards = {fingerprint: each for fingerprint, each in last_shards.items() if fingerprint in shards}
    most = fetcher.cache.most_bytes
    lookahead = Lookahead(order, shards, last_shards, start=start, stop=stop, most_bytes=most)
    fetcher.look_ahead(lookahead)
    return lookahead


def count_rows(data: Data, seed: int = 0) -> int:
    """Rows of all training sets together, as their manifests count them; no shard is opened, but for packing."""
    if row_packing(data, seed) is not None:
        return sum(dataset.rows.total for dataset in open_training(data, seed))
    return sum(sum(rows_by_shard(manifest, data.sequence_length)) for manifest in training_manifests(data))


def training_manifests(data: Data) -> list[Manifest]:
    """Of the training sets, in their order."""
    paths = {"data.path": data.path} if data.path else {f"data.train.{n}.path": e.path for n, e in data.train.items()}
    how: dict[str, Any] = {"split": "train", "fetching": Fetching.of(data)}
    return [read_manifest(find_folder(str(path), key=key, **how)) for key, path in paths.items()]


def with_length(config: Config) -> Config:
    """The configuration, whose train.epochs, if that is its length, are told in train.tokens as well."""
    train: Train = config.train  # type: ignore[attr-defined]
    if train.epochs is None:
        return config
    data: Data = config.data  # type: ignore[attr-defined]
    rows = math.ceil(round(train.epochs * count_rows(data, config.seed), 6))  # type: ignore[attr-defined]
    return with_values(config, {"train.tokens": rows * data.sequence_length})


def open_test(data: Data, members: tuple[str, ...] = ()) -> Dataset:
    """The test set, data.path/test. InputError if prepare made none."""
    if not data.path:
        raise InputError("evaluate.test=true needs data.path, the output of prepare with data.test_fraction above 0.")
    path, fetching = _join(data.path, "test"), Fetching.of(data)
    if not _has_manifest(path, fetching):
        raise InputError(
            f"evaluate.test=true: no test set in {path}; prepare the text with data.test_fraction above 0, or leave "
            "evaluate.test out."
        )
    return open_dataset(
        "test",
        path,
        key="data.path",
        split="test",
        sequence_length=data.sequence_length,
        packing=row_packing(data, seed=0),
        members=members,
        fetching=fetching,
    )


def open_validation(data: Data, members: tuple[str, ...] = ()) -> list[Dataset]:
    """The validation sets: data.validation, else data.path/validation if prepare wrote one."""
    return [
        open_dataset(
            name,
            path,
            key=f"data.validation.{name}.path",
            split="validation",
            sequence_length=data.sequence_length,
            packing=row_packing(data, seed=0),  # the same rows for every seed, so that losses compare
            members=members,
            fetching=Fetching.of(data),
        )
        for name, path in validation_paths(data).items()
    ]


def validation_paths(data: Data) -> dict[str, str]:
    """Where the validation sets are, by name: data.validation, else data.path/validation if prepare wrote one."""
    paths = {name: entry.path for name, entry in sorted(data.validation.items())}
    if not paths and data.path and _has_manifest(_join(data.path, "validation"), Fetching.of(data)):
        paths = {"validation": _join(data.path, "validation")}
    return paths


def _join(path: str, split: str) -> str:
    return f"{path.rstrip('/')}/{split}" if is_remote(path) else str(Path(path) / split)


def _has_manifest(path: str, fetching: Fetching) -> bool:
    if fetching.fetches(path):
        return find_mirror(path, fetching) is not None
    return (Path(path) / "manifest.json").is_file()


def widest(datasets: list[Dataset]) -> Dataset:
    """The first set that has the largest vocabulary: a run takes its tokenizer."""
    return max(datasets, key=lambda dataset: dataset.manifest.vocab_size)


def require_same_tokenizer(datasets: list[Dataset]) -> None:
    """Refuses sets that weren't all written with one tokenizer, or with one from which it grew by added tokens."""
    reference = widest(datasets).manifest
    for dataset in datasets:
        if dataset.manifest.tokenizer_sha256 == reference.tokenizer_sha256:
            continue
        if not extends(reference.tokenizer_file, dataset.manifest.tokenizer_file):
            raise InputError(
                f"{dataset.manifest.folder}: written with another tokenizer than {reference.folder}; "
                f"prepare it again with data.tokenizer.path={reference.folder / 'tokenizer'}."
            )


def check_run_tokenizer(dataset: Dataset, tokenizer: Path) -> None:
    """Refuses a set that wasn't written with a run's tokenizer.json, or one from which this grew by added tokens."""
    if not tokenizer.is_file():
        raise InputError(f"{tokenizer}: missing; copy the tokenizer/ of the dataset that the run trained on there.")
    same = tokenizer_sha256(tokenizer) == dataset.manifest.tokenizer_sha256
    if not same and not extends(tokenizer, dataset.manifest.tokenizer_file):
        raise InputError(
            f"{dataset.manifest.folder}: written with another tokenizer than the run's; "
            f"prepare it again with data.tokenizer.path={tokenizer.parent}."
        )


def weights_of(data: Data) -> dict[str, float]:
    """Weight of each training set in the mixture."""
    return {name: entry.weight for name, entry in data.train.items()} if data.train else {"train": 1.0}


def with_absolute_paths(data: Data) -> Data:
    """The section with absolute paths, as a run directory keeps it: it is read from other folders later."""
    return replace(
        data,
        path=_absolute(data.path) if data.path else None,
        train={name: replace(entry, path=_absolute(entry.path)) for name, entry in data.train.items()},
        validation={name: replace(entry, path=_absolute(entry.path)) for name, entry in data.validation.items()},
        cache=_absolute(data.cache) if data.cache else None,
    )


def _absolute(path: str) -> str:
    return path if is_remote(path) else str(Path(path).absolute())
