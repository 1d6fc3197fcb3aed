"""`banyan data at RUN_DIR step=N`: which documents the run trained on at step N, computed from the data order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config import Pretrain
from trainer.data.remote.left_out import read_left_out
from trainer.data.tokens.blocks import DocumentSpan
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.history import FILE, History, read_history, total_steps_of
from trainer.data.tokens.modalities import as_text
from trainer.data.tokens.order import Order
from trainer.errors import ConfigError, InputError
from trainer.machine.terminal import one_line, safe, show
from trainer.run.directory import load_run_tokenizer, read_config


@dataclass(frozen=True)
class RunOrder:
    """The order of a run's data, and the datasets in it by their fingerprints."""

    config: Pretrain
    history: History
    order: Order
    datasets: dict[str, Dataset]


def open_order(run_dir: Path) -> RunOrder:
    """Opens a run's data in its order. InputError where the run hasn't begun, or its data aren't there."""
    config = read_config(run_dir)
    history = read_history(run_dir)
    if history is None:
        raise InputError(f"{run_dir / FILE}: missing; {run_dir} hasn't begun to train.")
    training = open_training(config.data, config.seed)
    order = Order(
        [dataset.rows for dataset in training],
        history.segments,
        seed=config.seed,
        window=config.data.shuffle_shards,
    )
    return RunOrder(config, history, order, {dataset.manifest.fingerprint: dataset for dataset in training})


def print_step(run_dir: Path, step: int) -> int:
    """Prints every sequence of a step: its place in the data, then the documents in it with source and text."""
    opened = open_order(run_dir)
    total_steps = total_steps_of(opened.config, opened.history)
    if step > total_steps:
        raise InputError(f"step={step}: the run has {total_steps} steps.")
    start, stop = opened.history.positions_of(step)
    tokenizer = load_run_tokenizer(run_dir)
    skipped = ", skipped: the step was bad, and its update was not made" if step in opened.history.skipped else ""
    show(f"step {step}: positions {start:,} to {stop - 1:,}{skipped}")
    for line in rewinds_in_words(opened.history, step):
        show(line)
    length = opened.history.stretch_of(step).length
    if length is not None:
        show(f"each row was cut into rows of {length:,} tokens (data.length_ramp)")
    left_out = {row.position for row in read_left_out(run_dir)}
    for position, place in enumerate(opened.order.places(start, stop), start=start):
        dataset = opened.datasets[place.fingerprint]
        file = dataset.manifest.shards[place.shard].file
        show(f"\nposition {position:,}: {place.dataset}, epoch {place.epoch}, {file}, row {place.row}")
        if position in left_out:
            show("  left out: the shard couldn't be had (data.on_bad_shard=skip)")
            continue
        for part, (first, last) in enumerate(cut_stretches(dataset, place.shard, place.row, length), start=1):
            if length is not None:
                show(f"  part {part}:")
            for line, tokens in documents_between(dataset, place.shard, first, last):
                show(one_line(line))
                text = as_text(tokenizer, tokens, dataset.manifest.modalities)
                show("".join(f"    {part}\n" for part in safe(text).splitlines()), end="")
    return 0


def rewinds_in_words(history: History, step: int) -> Iterator[str]:
    """A line for each rewind that led back to before `step`: what the run had done by that number at first."""
    for rewind in history.rewinds:
        if rewind.to_step < step <= rewind.from_step:
            yield (
                f"before that, step {rewind.from_step} was bad and the run was rewound to step {rewind.to_step}; "
                f"data up to position {rewind.position - 1:,} that came after it was left out"
            )


def cut_stretches(dataset: Dataset, shard: int, row: int, length: int | None) -> list[tuple[int, int]]:
    """The stretches of a shard's tokens that a row's inputs are, cut into such of `length`, if there is one."""
    dataset.gather_rows(np.array([shard]), np.array([row]))  # refuses a damaged one
    stretches = row_stretches(dataset, shard, row)
    if length is None:
        return stretches
    return [(begin, begin + length) for first, last in stretches for begin in range(first, last, length)]


def documents_between(dataset: Dataset, shard: int, first: int, last: int) -> Iterator[tuple[str, list[int]]]:
    """For each document that the tokens [first, last) touch: a line that names it, and its tokens among them."""
    reader = dataset.shards[shard]
    for document in reader.documents(first, last):
        begin, end = max(first, document.start), min(last, document.stop)
        yield _line(dataset, document, begin, end), reader.read(begin, end).tolist()


def spans_in_row(dataset: Dataset, shard: int, row: int) -> Iterator[tuple[DocumentSpan, int, int]]:
    """The documents that a row's inputs touch, each with its tokens [begin, end) of the shard that are in the row."""
    dataset.gather_rows(np.array([shard]), np.array([row]))  # refuses a damaged one
    for first, last in row_stretches(dataset, shard, row):
        for document in dataset.shards[shard].documents(first, last):
            yield document, max(first, document.start), min(last, document.stop)


def row_stretches(dataset: Dataset, shard: int, row: int) -> list[tuple[int, int]]:
    """The stretches [first, last) of a shard's tokens that a row's inputs are."""
    if dataset.packing is None:
        start = int(dataset.starts_of(np.array([shard]), np.array([row]))[0])
        return [(start, start + dataset.sequence_length)]
    starts, places = dataset.row_tables[shard].pieces_of(row)
    return list(zip(starts.tolist(), (starts + places).tolist(), strict=True))


def _line(dataset: Dataset, document: DocumentSpan, begin: int, end: int) -> str:
    """Names a document, and which of its tokens are meant."""
    source = dataset.manifest.source_name(document.source)
    return (
        f"  {source}, record {document.record}: tokens {begin - document.start:,} to {end - document.start - 1:,} "
        f"of {document.stop - document.start:,}"
    )


def read_step(argument: str) -> int:
    """N of step=N."""
    key, _, value = argument.partition("=")
    if key != "step" or not value.isdigit() or int(value) < 1:
        raise ConfigError(f"{argument}: give the step as step=N, with N from 1 on.")
    return int(value)
