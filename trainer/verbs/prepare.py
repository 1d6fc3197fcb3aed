"""Text → token shards: `banyan prepare data.input=PATH data.output=DIR` writes DIR/train, DIR/validation and so on.

Reading, tokenizer, shards: each stage leaves its work in DIR/partial as it goes, so that the same command continues
after any end, kill -9 included, and writes the same bytes.
"""

from __future__ import annotations

import datetime
import functools
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import Data, Prepare
from trainer.config.knobs import deciding_values
from trainer.config.values import check_values
from trainer.data.text import document_store
from trainer.data.text.file_names import as_utf8, escape
from trainer.data.text.filters import DUPLICATE, first_occurrences
from trainer.data.text.plan import FILE as PLAN_FILE
from trainer.data.text.plan import PARTIAL, SPLITS, PreparationPlan, exclusive, read_progress, write_plan
from trainer.data.text.progress import ProgressBar, bytes_in_words
from trainer.data.text.shard_job import Packing, ShardJob, make_shard
from trainer.data.text.sources import Found, Source, find_sources
from trainer.data.text.split import cut_into_shards, held_out, shuffle_order
from trainer.data.text.workers import Map, available_cores, processes
from trainer.data.tokens.encoder import try_tokenizer
from trainer.data.tokens.manifest import Manifest, Shard, SourceGroup, read_manifest, write_manifest
from trainer.data.tokens.round_trip import Loss
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import (
    SMALLEST_VOCABULARY,
    Tokenizer,
    find_tokenizer,
    load_tokenizer,
    tokenizer_sha256,
    train_tokenizer,
)
from trainer.data.tokens.training_text import TrainingText
from trainer.errors import ConfigError, InputError
from trainer.machine.credentials import masked
from trainer.machine.durable import make_folder
from trainer.machine.terminal import one_line
from trainer.rules.pretrain import require

CHECKED_BYTES = 2**20  # text on which the tokenizer is tried
MOST_LOSS = 0.5  # of these bytes that may not come back from their ids


@dataclass(frozen=True)
class Corpus:
    """The accepted documents of each split, in the order of their shards, and what became of the others."""

    splits: dict[str, document_store.Documents]
    rejected: dict[str, int]
    first_rejected: dict[str, str]  # by reason: file and place of the first
    unused: dict[str, int]  # what was left out within files
    documents_read: int


def main(config: Prepare, map_items: Map | None = None) -> int:
    """Runs `banyan prepare`; 0 when done. `map_items` replaces the map over processes (Ray passes in its own)."""
    output = _check(config)
    config = replace(config, data=_in_utf8(config.data))
    data = config.data
    found = find_sources(data.input, data.include, data.exclude, output, data.text_field)
    plan = PreparationPlan.of(_settings(config), found.sources)
    _say("sources", _describe(found))
    make_folder(output)
    with exclusive(output):
        progress = read_progress(output, plan)
        if progress == "finished":
            return _up_to_date(output)
        if progress == "begun":
            _say("continue", f"the same prepare was interrupted; what it left in {escape(output / PARTIAL)} is used")
        with processes(data.workers or available_cores()) as own_map:
            _prepare(config, output, found, plan, map_items or own_map)
    return 0


def _prepare(config: Prepare, output: Path, found: Found, plan: PreparationPlan, map_items: Map) -> None:
    """The stages, top to bottom."""
    data, partial, sources = config.data, output / PARTIAL, found.sources
    try:
        make_folder(partial)
        write_plan(output, plan, finished=False)
        items = _collect(sources, partial, data, map_items)
        corpus = _arrange(items, partial, sources, config)
        tokenizer = _tokenizer(config, corpus, partial)
        engine = _engine(tokenizer, corpus, partial, allow_loss=data.tokenizer.allow_loss)
    except (InputError, ConfigError):
        _withdraw(output)  # the mend changes the plan, and mustn't meet this one
        raise
    written = _write_shards(data, output, corpus, tokenizer, engine, map_items)
    for split in reversed(written):  # train's manifest comes last
        tokenizer.save(output / split / "tokenizer", scratch=partial)
        write_manifest(_manifest(config, output / split, sources, corpus, tokenizer, written[split]), scratch=partial)
    write_plan(output, plan, finished=True)
    shutil.rmtree(partial, ignore_errors=True)
    _summarise(output, corpus)


# ------------------------------------------------------------------------------------------------------ the outset


def _check(config: Prepare) -> Path:
    """Refuses a configuration that can't work; returns the output folder."""
    check_values(config)
    data = config.data
    require(
        bool(data.input), "data.input is empty: name files, folders or globs, or use data=stdlib for Python's library."
    )
    require(bool(data.output), "data.output is not set: name the folder that prepare shall write train/ and so on to.")
    require(
        data.tokenizer.path is not None or data.tokenizer.end_of_text is None,
        "data.tokenizer.end_of_text is for a loaded tokenizer: set data.tokenizer.path too, or leave it out.",
    )
    require(
        data.tokenizer.path is not None or data.tokenizer.train.vocab_size >= SMALLEST_VOCABULARY,
        f"data.tokenizer.train.vocab_size={data.tokenizer.train.vocab_size}: at least {SMALLEST_VOCABULARY} "
        "(256 bytes and the end-of-text token).",
    )
    output = Path(str(data.output)).expanduser()
    standing = next((place for place in (output, *output.parents) if place.exists()), Path())
    require(standing.is_dir(), f"data.output={output}: {standing} is a file; choose a folder.")
    return output


def _in_utf8(data: Data) -> Data:
    """The section with those texts of it that name no file as UTF-8, in any locale."""
    licence = None if data.licence is None else as_utf8(data.licence)
    return replace(data, name=as_utf8(data.name), text_field=as_utf8(data.text_field), licence=licence)


def _settings(config: Prepare) -> dict[str, Any]:
    """The settings that determine the shards, by key: those whose knobs say so."""
    settings = {"seed": config.seed, **deciding_values(config.data, "data.")}
    path = config.data.tokenizer.path
    if path is None:
        settings.pop("data.tokenizer.end_of_text")
        return settings
    of_training = [key for key in settings if key.startswith("data.tokenizer.train.")]
    sha256 = tokenizer_sha256(find_tokenizer(Path(path).expanduser()))
    return {key: settings[key] for key in settings if key not in of_training} | {"data.tokenizer.path's sha256": sha256}


def _up_to_date(output: Path) -> int:
    """Says that there is nothing to do, once what was made is still there."""
    shutil.rmtree(output / PARTIAL, ignore_errors=True)  # killed between the last word and the tidying
    for split in SPLITS:
        if split == "train" or (output / split).exists():
            manifest = read_manifest(output / split)
            open_shards(manifest)
            _say(
                split,
                f"{manifest.documents:,} documents, {manifest.tokens:,} tokens: up to date in {escape(output / split)}",
            )
    return 0


def _withdraw(output: Path) -> None:
    """Takes back what a refused prepare left, which is nothing that counts; other files in the folder stay."""
    if any((output / split).exists() for split in SPLITS):
        return
    shutil.rmtree(output / PARTIAL, ignore_errors=True)
    (output / PLAN_FILE).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------ the stages


def _collect(sources: tuple[Source, ...], partial: Path, data: Data, map_items: Map) -> int:
    """Stores every source's documents; returns the number of work items."""
    batches = document_store.work_items(sources)
    work = functools.partial(
        document_store.collect_documents,
        folder=partial,
        text_field=data.text_field,
        most_bytes=data.most_document_bytes,
    )
    with ProgressBar("read", sum(batch.bytes for batch in batches)) as progress:
        for size in map_items(work, batches):
            progress.advance(bytes=size)
    return len(batches)


def _arrange(items: int, partial: Path, sources: tuple[Source, ...], config: Prepare) -> Corpus:
    """Drops duplicates, splits and orders what was stored."""
    data = config.data
    documents, rejections = document_store.load(partial, items)
    documents_read = len(documents) + rejections.counts.total()
    if data.deduplicate:
        is_first = first_occurrences(documents.hash)
        if not is_first.all():
            first = int(np.flatnonzero(~is_first)[0])
            place = f"{sources[documents.source[first]].name}, record {documents.record[first]}"
            rejections.add(DUPLICATE, place, int((~is_first).sum()))
        documents = documents.take(is_first)
    if not len(documents):
        what = _counts(rejections.counts) or "the files hold none"
        where = "; ".join(f"{reason}: first {place}" for reason, place in sorted(rejections.first.items()))
        raise InputError(f"data.input: no document to prepare ({what}{f'; {where}' if where else ''}).")
    validation = held_out(documents.hash, data.validation_fraction)
    test = held_out(documents.hash, data.validation_fraction + data.test_fraction) & ~validation
    splits = {"train": documents.take(~validation & ~test)}
    if data.validation_fraction:
        splits["validation"] = documents.take(validation)
    if data.test_fraction:
        splits["test"] = documents.take(test)
    for split, part in splits.items():
        if not len(part):
            raise InputError(
                f"data.{'test' if split == 'test' else 'validation'}_fraction="
                f"{data.test_fraction if split == 'test' else data.validation_fraction}: none of the "
                f"{len(documents):,} documents falls into {split}: change it (0 makes no such set), or give more "
                "documents."
            )
    if data.shuffle_documents:
        splits = {split: part.take(shuffle_order(part.hash, config.seed)) for split, part in splits.items()}
    return Corpus(
        splits,
        rejected=dict(sorted(rejections.counts.items())),
        first_rejected=rejections.first,
        unused={what: count for what, count in rejections.unused.items() if count},
        documents_read=documents_read,
    )


def _tokenizer(config: Prepare, corpus: Corpus, partial: Path) -> Tokenizer:
    """The tokenizer: loaded, or as an interrupted run trained it, or trained on the training documents."""
    wanted = config.data.tokenizer
    if wanted.path is not None:
        tokenizer = load_tokenizer(wanted.path, wanted.end_of_text)
        _say(
            "tokenizer", f"{tokenizer.name}: {tokenizer.vocab_size:,} tokens, documents end in {tokenizer.end_of_text}"
        )
        return tokenizer
    folder = partial / "tokenizer"
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder)
    sample = _shuffled(corpus.splits["train"], config.seed)
    total = min(wanted.train.sample_bytes, int(sample.length.sum()))
    with ProgressBar("tokenizer", total) as progress:
        texts = _counted(document_store.sample_texts(partial, sample, wanted.train.sample_bytes), progress)
        training = TrainingText(texts, memory_bytes=wanted.train.memory_bytes)
        tokenizer = train_tokenizer(training, vocab_size=wanted.train.vocab_size, name=config.data.name)
    if training.stopped:
        _say(
            "tokenizer",
            f"trained on the first {bytes_in_words(training.given)} of the text: their distinct words fill "
            f"data.tokenizer.train.memory_bytes={wanted.train.memory_bytes}; with more it sees more",
        )
    tokenizer = replace(tokenizer, name=f"{config.data.name}-bpe-{tokenizer.vocab_size}")
    tokenizer.save(folder)
    short = tokenizer.vocab_size < wanted.train.vocab_size
    less = f" (less than the {wanted.train.vocab_size:,} wanted: the text holds no more pairs)" if short else ""
    _say("tokenizer", f"{tokenizer.name}: byte-level BPE, {tokenizer.vocab_size:,} tokens{less}")
    return tokenizer


def _engine(tokenizer: Tokenizer, corpus: Corpus, partial: Path, *, allow_loss: bool) -> str:
    """Who encodes. gigatoken must prove itself on a sample of the input, and that must come back from its ids."""
    sample = _shuffled(corpus.splits["train"], seed=0)
    trial = try_tokenizer(tokenizer, document_store.sample_texts(partial, sample, CHECKED_BYTES))
    _check_loss(tokenizer, trial.loss, allow=allow_loss)
    warning = "" if trial.engine == "gigatoken" else "WARNING: dozens of times slower; "
    _say("encode", f"{warning}with {trial.engine}: {trial.why}")
    return trial.engine


def _check_loss(tokenizer: Tokenizer, loss: Loss, *, allow: bool) -> None:
    """Tells what a tokenizer can't say of the text; InputError where that is most of it, unless it is allowed."""
    if not loss.lost:
        return
    lost = f"{loss.share:.2%} of the bytes tried don't come back from their ids: {loss.example}"
    if loss.share > MOST_LOSS and not allow:
        raise InputError(
            f"data.tokenizer.path: {tokenizer.name} can't say this text, {lost}: choose a tokenizer that knows it, or "
            "set data.tokenizer.allow_loss=true."
        )
    _say("tokenizer", f"WARNING: {lost}")


def _write_shards(
    data: Data, output: Path, corpus: Corpus, tokenizer: Tokenizer, engine: str, map_items: Map
) -> dict[str, list[Shard]]:
    """Encodes and writes the shards of every split."""
    partial = output / PARTIAL
    packing = Packing(
        partial=partial,
        tokenizer=_tokenizer_for_workers(tokenizer, partial),
        end_of_text=tokenizer.end_of_text,
        engine=engine,
        dtype=tokenizer.dtype,
        block_tokens=data.block_tokens,
    )
    jobs = []
    for split, documents in corpus.splits.items():
        make_folder(output / split)
        for number, rows in enumerate(cut_into_shards(documents.length, data.shard_bytes)):
            jobs.append(ShardJob(output / split / f"shard-{number:06d}.tar", documents.take(rows)))
    written: dict[str, list[Shard]] = {split: [] for split in corpus.splits}
    with ProgressBar("encode", sum(int(job.documents.length.sum()) for job in jobs)) as progress:
        for job, shard in zip(jobs, map_items(functools.partial(make_shard, packing=packing), jobs), strict=True):
            written[job.path.parent.name].append(shard)
            progress.advance(bytes=shard.text_bytes, tokens=shard.tokens)
    return written


def _tokenizer_for_workers(tokenizer: Tokenizer, partial: Path) -> Path:
    """A folder to load exactly this tokenizer from, whatever becomes of the one that was given."""
    folder = partial / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        tokenizer.save(folder)
    return folder


def _shuffled(documents: document_store.Documents, seed: int) -> document_store.Documents:
    return documents.take(shuffle_order(documents.hash, seed))


def _counted(texts: Iterator[bytes], progress: ProgressBar) -> Iterator[bytes]:
    for text in texts:
        progress.advance(bytes=len(text))
        yield text


# --------------------------------------------------------------------------------------------------------- the end


def _manifest(
    config: Prepare,
    folder: Path,
    sources: tuple[Source, ...],
    corpus: Corpus,
    tokenizer: Tokenizer,
    shards: list[Shard],
) -> Manifest:
    groups = groupby(sources, key=lambda source: source.given)
    return Manifest(
        folder=folder,
        name=config.data.name,
        dtype=tokenizer.dtype,
        tokenizer_name=tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text_id,
        special_ids=tokenizer.special_ids,
        shards=tuple(shards),
        rejected=corpus.rejected,
        documents_read=corpus.documents_read,
        sources=tuple(
            SourceGroup(given, config.data.licence, tuple(source.name for source in group)) for given, group in groups
        ),
        prepared={
            "command": [masked(typed) for typed in sys.argv],
            "version": _version(),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **_settings(config),
        },
    )


def _version() -> str:
    """Banyan's version, if it's installed."""
    try:
        return version("banyan-train")
    except PackageNotFoundError:
        return "not installed"


def _summarise(output: Path, corpus: Corpus) -> None:
    """Prints what came of it: every document that was read is in a split or among the rejected."""
    for split in corpus.splits:
        manifest = read_manifest(output / split)
        _say(
            split,
            f"{manifest.documents:,} documents, {manifest.tokens:,} tokens, {bytes_in_words(manifest.text_bytes)} "
            f"({manifest.tokens / manifest.text_bytes:.3f} tokens per byte) in {len(manifest.shards)} shards: "
            f"{escape(output / split)}",
        )
        _warn_of_empty_documents(manifest)
    _say("rejected", f"{_counts(corpus.rejected) or 'none'}, of {corpus.documents_read:,} documents read")
    for reason in corpus.rejected:
        _say("", f"{reason}: first {corpus.first_rejected[reason]}")
    for what, count in corpus.unused.items():
        _say("left out", f"{count:,} {what}")


def _warn_of_empty_documents(manifest: Manifest) -> None:
    """Counts the documents of which the tokenizer makes no token but the end of text, and names the first."""
    count, first = 0, ""
    for reader in open_shards(manifest):
        lengths = reader.lengths()
        empty = np.flatnonzero(lengths == 1)
        count += len(empty)
        if len(empty) and not first:
            start = int(lengths[: empty[0]].sum(dtype=np.int64))
            (document,) = reader.documents(start, start + 1)
            first = f"{one_line(manifest.source_name(document.source))}, record {document.record}"
        reader.close()
    if count:
        what = f"{count:,} document{'s' * (count > 1)} of {manifest.folder.name}"
        _say("tokenizer", f"WARNING: of {what} no token is left but the end of text; the first is {first}")


def _describe(found: Found) -> str:
    size = bytes_in_words(sum(source.bytes for source in found.sources))
    left_out = f" ({found.others})" if str(found.others) else ""
    return f"{len(found.sources):,} files, {size}{left_out}"


def _counts(counts: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()) if count)


def _say(subject: str, what: str) -> None:
    """One line, flushed, so that it shows at once in a log file too; escaped as far as the console can't show it."""
    encoding = sys.stdout.encoding or "utf-8"
    line = f"{subject:<10} {one_line(what)}"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
