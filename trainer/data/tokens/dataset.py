"""A folder of token shards, opened for reading rows; and the sets that a configuration names."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from trainer.config import Data, Train
from trainer.config.plain_values import Config, with_values
from trainer.data.tokens.manifest import Manifest, read_manifest
from trainer.data.tokens.order import Rows, rows_in
from trainer.data.tokens.shards import ShardReader, build_index, open_shards, unfitting
from trainer.data.tokens.tokenizer import sha256_of, tokenizer_sha256
from trainer.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """Token shards under a `name`, read as rows of `sequence_length` + 1 tokens."""

    name: str
    manifest: Manifest
    shards: list[ShardReader]
    sequence_length: int

    @cached_property
    def rows(self) -> Rows:
        """What the order must know: rows per shard, and the fingerprint."""
        counts = tuple(rows_in(shard.tokens, self.sequence_length) for shard in self.shards)
        return Rows(self.name, self.manifest.fingerprint, counts)

    @cached_property
    def _first_rows(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.rows.rows)])

    def row(self, shard: int, row: int) -> np.ndarray:
        """Row `row` of a shard: tokens [row·L, row·L + L], shape (L + 1,), the shard's dtype.

        InputError if a token isn't in the vocabulary: the shard was damaged in place.
        """
        start = row * self.sequence_length
        tokens = self.shards[shard].read(start, start + self.sequence_length + 1)
        if int(tokens.max()) >= self.manifest.vocab_size:
            raise InputError(
                f"{self.manifest.folder / self.manifest.shards[shard].file}: token {int(tokens.max())} in row {row} is "
                f"outside the vocabulary of {self.manifest.vocab_size}; "
                f'run "banyan data verify {self.manifest.folder}".'
            )
        return tokens

    def row_in_file_order(self, number: int) -> np.ndarray:
        """Row `number` counted over all shards in file order, unshuffled: what validation reads."""
        shard = int(np.searchsorted(self._first_rows, number, side="right")) - 1
        return self.row(shard, number - int(self._first_rows[shard]))


def open_dataset(name: str, path: str, *, key: str, split: str, sequence_length: int) -> Dataset:
    """Opens token shards at `path`, or in its folder `split` if `path` is an output of prepare.

    InputError, naming the configuration `key`, if there are none or they hold no whole row.
    """
    folder = find_folder(path, key=key, split=split)
    manifest = read_manifest(folder)
    check_tokenizer(manifest)
    dataset = Dataset(name, manifest, open_shards(manifest), sequence_length)
    if dataset.rows.total == 0:
        raise InputError(
            f"{key}={path}: no shard holds a whole row of {sequence_length} tokens (the largest has "
            f"{max((shard.tokens for shard in dataset.shards), default=0)}); give prepare more text, "
            f"or set a smaller data.sequence_length{', or evaluate.every=0' * (split == 'validation')}."
        )
    return dataset


def find_damage(dataset: Dataset, *, part: int, parts: int) -> str | None:
    """Hashes every `parts`-th shard from `part` on, and compares its index; the first damage in a line, or None."""
    for shard, reader in list(zip(dataset.manifest.shards, dataset.shards, strict=True))[part::parts]:
        path = dataset.manifest.folder / shard.file
        if sha256_of(path) != shard.sha256:
            return (
                f"{path}: its content isn't what the manifest says (sha256 differs); fetch or prepare it again, "
                f'then "banyan data verify {dataset.manifest.folder}".'
            )
        if not np.array_equal(build_index(path, dataset.manifest.dtype), reader.index):
            return unfitting(dataset.manifest, shard)
    return None


def find_folder(path: str, *, key: str, split: str) -> Path:
    """The folder with the manifest: `path` itself or its folder `split`."""
    for folder in (Path(path), Path(path) / split):
        if (folder / "manifest.json").is_file():
            return folder
    raise InputError(
        f"{key}={path}: no manifest.json there; make token shards with "
        f'"banyan prepare data.input=TEXT data.output={path}", or mend the path.'
    )


def check_tokenizer(manifest: Manifest) -> None:
    """Refuses shards whose tokenizer/ isn't the one they were written with."""
    path = manifest.folder / "tokenizer" / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{path} is missing: the shards can't be read as text; restore it or prepare again.")
    if tokenizer_sha256(path) != manifest.tokenizer_sha256:
        raise InputError(
            f"{path} is not the tokenizer that the shards were written with (manifest.json has another sha256): "
            "restore it or prepare again."
        )
    if manifest.vocab_size > path.stat().st_size:
        raise InputError(
            f"{path} can't hold the {manifest.vocab_size:,} tokens that manifest.json states: restore it or prepare "
            "again."
        )


def open_training(data: Data) -> list[Dataset]:
    """The training sets: data.path alone, or the mixture data.train. All have one tokenizer."""
    length = data.sequence_length
    if data.path:
        return [open_dataset("train", data.path, key="data.path", split="train", sequence_length=length)]
    sets = [
        open_dataset(name, entry.path, key=f"data.train.{name}.path", split="train", sequence_length=length)
        for name, entry in sorted(data.train.items())
    ]
    for position, dataset in enumerate(sets):
        for other in sets[:position]:
            if other.manifest.fingerprint == dataset.manifest.fingerprint:
                raise InputError(
                    f"data.train.{other.name} and data.train.{dataset.name} are the same dataset: "
                    "keep one and add the weights."
                )
    return sets


def count_rows(data: Data) -> int:
    """Rows of all training sets together, as their manifests count them; no shard is opened."""
    paths = {"data.path": data.path} if data.path else {f"data.train.{n}.path": e.path for n, e in data.train.items()}
    manifests = [read_manifest(find_folder(str(path), key=key, split="train")) for key, path in paths.items()]
    return sum(rows_in(shard.tokens, data.sequence_length) for manifest in manifests for shard in manifest.shards)


def with_length(config: Config) -> Config:
    """The configuration, whose train.epochs, if that is its length, are told in train.tokens as well."""
    train: Train = config.train  # type: ignore[attr-defined]
    if train.epochs is None:
        return config
    data: Data = config.data  # type: ignore[attr-defined]
    rows = math.ceil(round(train.epochs * count_rows(data), 6))
    return with_values(config, {"train.tokens": rows * data.sequence_length})


def open_test(data: Data) -> Dataset:
    """The test set, data.path/test. InputError if prepare made none."""
    if not data.path:
        raise InputError("evaluate.test=true needs data.path, the output of prepare with data.test_fraction above 0.")
    path = str(Path(data.path) / "test")
    if not (Path(path) / "manifest.json").is_file():
        raise InputError(
            f"evaluate.test=true: no test set in {path}; prepare the text with data.test_fraction above 0, or leave "
            "evaluate.test out."
        )
    return open_dataset("test", path, key="data.path", split="test", sequence_length=data.sequence_length)


def open_validation(data: Data) -> list[Dataset]:
    """The validation sets: data.validation, else data.path/validation if prepare wrote one."""
    paths = {name: entry.path for name, entry in data.validation.items()}
    if not paths and data.path and (Path(data.path) / "validation" / "manifest.json").is_file():
        paths = {"validation": str(Path(data.path) / "validation")}
    return [
        open_dataset(
            name,
            path,
            key=f"data.validation.{name}.path",
            split="validation",
            sequence_length=data.sequence_length,
        )
        for name, path in sorted(paths.items())
    ]


def require_same_tokenizer(datasets: list[Dataset]) -> None:
    """Refuses sets that weren't all written with one tokenizer."""
    reference = datasets[0].manifest
    for dataset in datasets:
        if dataset.manifest.tokenizer_sha256 != reference.tokenizer_sha256:
            raise InputError(
                f"{dataset.manifest.folder}: written with another tokenizer than {reference.folder}; "
                f"prepare it again with data.tokenizer.path={reference.folder / 'tokenizer'}."
            )


def check_run_tokenizer(dataset: Dataset, tokenizer: Path) -> None:
    """Refuses a set that wasn't written with a run's tokenizer.json."""
    if not tokenizer.is_file():
        raise InputError(f"{tokenizer}: missing; copy the tokenizer/ of the dataset that the run trained on there.")
    if tokenizer_sha256(tokenizer) != dataset.manifest.tokenizer_sha256:
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
        path=str(Path(data.path).absolute()) if data.path else None,
        train={name: replace(entry, path=str(Path(entry.path).absolute())) for name, entry in data.train.items()},
        validation={
            name: replace(entry, path=str(Path(entry.path).absolute())) for name, entry in data.validation.items()
        },
    )
