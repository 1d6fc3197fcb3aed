"""Text → token shards: `banyan prepare data.input=PATH data.output=DIR` writes DIR/train, DIR/validation and so on.

Reading, shuffle, tokenizer, shards: each stage is a map over work items that leave their results in DIR/partial, so
that the same command continues after any end, kill -9 included, and writes the same bytes. This process holds sums, and
nothing of a document: its memory doesn't grow with them. Equal documents meet in one bucket of the shuffle.
"""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import xxhash

from trainer.config import Data, Prepare
from trainer.config.knobs import deciding_values
from trainer.config.values import check_values
from trainer.data.examples.formats import CHAT, texts_in
from trainer.data.examples.read import REFUSE, ExampleReader
from trainer.data.examples.render import special_tokens_of
from trainer.data.examples.template import CHATML, read_template
from trainer.data.text.collect import Collect, Totals, WorkItem, work_items
from trainer.data.text.document_store import Damaged, DocumentStore, sample_texts
from trainer.data.text.file_names import as_utf8, escape
from trainer.data.text.parts import OrderedPart, Splits, part_texts, split_in_parts, texts_path
from trainer.data.text.plan import FILE as PLAN_FILE
from trainer.data.text.plan import (
    LAYOUT,
    PARTIAL,
    SPLITS,
    PreparationPlan,
    begin_partial,
    exclusive,
    read_progress,
    write_plan,
)
from trainer.data.text.progress import ProgressBar, bytes_in_words
from trainer.data.text.shard_job import Examples, MakeShard, ShardJob, Written
from trainer.data.text.shared_work import WorkShare, share_work
from trainer.data.text.shuffle import FindDuplicates, KeepOrder, ShuffleBucket, Stored, training_texts
from trainer.data.text.sources import Found, Source, find_sources
from trainer.data.text.split import Buckets, shard_ranges
from trainer.data.text.workers import Map, Work, available_cores, in_process, processes
from trainer.data.tokens.encoder import try_tokenizer
from trainer.data.tokens.manifest import Manifest, SourceGroup, read_manifest, write_manifest
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
from trainer.errors import ConfigError, InputError, StorageError
from trainer.machine.credentials import masked
from trainer.machine.durable import make_folder, write_json
from trainer.machine.hub_name import local_folder
from trainer.machine.json_file import Malformed, from_json, read_json
from trainer.machine.terminal import one_line
from trainer.rules.pretrain import require

CHECKED_BYTES = 2**20  # text on which the tokenizer is tried
MOST_LOSS = 0.5  # of these bytes that may not come back from their ids
UNPACKED = 4  # times that a packed source is larger, about


@dataclass(frozen=True)
class Maps:
    """How work items are mapped over: `spread` to all workers, or `here`, one after the other in this process."""

    spread: Map
    here: Map


@dataclass(frozen=True)
class Corpus:
    """The accepted documents in the order of their shards, in parts, and what became of the others."""

    stored: Stored
    splits: Splits
    parts: tuple[OrderedPart, ...]
    rejected: dict[str, int]
    first_rejected: dict[str, str]  # by reason: file and place of the first
    unused: dict[str, int]  # what was left out within files
    documents_read: int

    def with_rejected(self, written: dict[str, list[Written]]) -> Corpus:
        """With the examples that couldn't be rendered among the rejected. InputError where none is left to train on."""
        rejected, first = Counter(self.rejected), dict(self.first_rejected)
        for shard in (shard for shards in written.values() for shard in shards):
            rejected.update(shard.rejected)
            for reason, place in shard.first_rejected.items():
                first.setdefault(reason, place)
        if not any(shard.shard.documents for shard in written["train"]):
            where = "; ".join(f"{reason}: first {place}" for reason, place in sorted(first.items()))
            raise InputError(f"data.input: no document to prepare ({_counts(rejected)}; {where}).")
        return replace(self, rejected=dict(sorted(rejected.items())), first_rejected=first)

    def documents_of(self, split: str) -> int:
        """How many documents a split has."""
        return sum(part.splits[split].documents for part in self.parts)

    def bytes_of(self, split: str) -> int:
        """UTF-8 bytes of a split."""
        return sum(part.splits[split].bytes for part in self.parts)


def main(config: Prepare, map_items: Map | None = None, share: WorkShare | None = None) -> int:
    """Runs `banyan prepare`; 0 when done. `map_items` replaces the map over processes (Ray passes in its own).

    With a `share` this is one of several processes, perhaps on other machines, that prepare the folder together.
    """
    output = _check(config)
    config = replace(config, data=_in_utf8(config.data))
    data = config.data
    found = find_sources(data.input, data.include, data.exclude, output, data.text_field)
    plan = PreparationPlan.of(_settings(config), found.sources)
    _say("sources", _describe(found))
    make_folder(output)
    with exclusive(output, shared=share is not None) as alone, ExitStack() as stack:
        progress = read_progress(output, plan)
        if progress == "finished":
            return _up_to_date(output)
        if progress == "begun" and share is None:
            _say("continue", f"the same prepare was interrupted; what it left in {escape(output / PARTIAL)} is used")
        make_folder(output / PARTIAL)
        if progress == "new":
            write_plan(output, plan, finished=False)
        own_map = stack.enter_context(processes(data.workers or available_cores()))
        maps = Maps(map_items or own_map, in_process)
        try:
            if share is not None:
                shared = stack.enter_context(share_work(output / PARTIAL / "claims", share))
                maps = Maps(shared(maps.spread), shared(maps.here))
            _prepare(config, output, found.sources, plan, maps, shared=share is not None)
        except (InputError, ConfigError, StorageError, OSError) as error:
            if share is not None and read_progress(output, plan) == "finished":
                return _up_to_date(output)  # others were faster, and have tidied up
            if isinstance(error, InputError | ConfigError) and not isinstance(error, Damaged) and alone():
                _withdraw(output)  # the mend changes the plan, and mustn't meet this one
            raise
    return 0


def _prepare(
    config: Prepare, output: Path, sources: tuple[Source, ...], plan: PreparationPlan, maps: Maps, *, shared: bool
) -> None:
    """The stages, top to bottom."""
    data = config.data
    items = work_items(sources, data.text_field, whole=data.has_examples)
    store = _store(config, output / PARTIAL, sources)
    begin_partial(output, _layout(items, store.buckets), alone=not shared)
    if shared and read_progress(output, plan) == "finished":  # and tidied up, just before we began
        _up_to_date(output)
        return
    totals = _collect(items, store, sources, data, maps.spread)
    corpus = _arrange(totals, store, sources, data, maps.spread)
    tokenizer, engine = _tokenizer(config, corpus, maps.here)
    names = tuple(source.name for source in sources)
    written = _write_shards(data, output, corpus, tokenizer, engine, names, maps.spread)
    corpus = corpus.with_rejected(written)
    finish = Finish(config, output, sources, plan, corpus, tokenizer, written)
    for _ in maps.here(finish, [output]):
        _summarise(output, corpus, written)


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
    if config.data.chat_template is not None:
        template = read_template(config.data.chat_template)
        settings["data.chat_template"] = xxhash.xxh3_128_hexdigest(template.encode())
    if path is None:
        settings.pop("data.tokenizer.end_of_text")
        return settings
    of_training = [key for key in settings if key.startswith("data.tokenizer.train.")]
    sha256 = tokenizer_sha256(find_tokenizer(local_folder(path)))
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


def _store(config: Prepare, partial: Path, sources: tuple[Source, ...]) -> DocumentStore:
    """Where and how documents are stored; in how many buckets, follows from the sources' sizes alone."""
    size = sum(source.bytes * (UNPACKED if source.packing else 1) for source in sources)
    data = config.data
    return DocumentStore(
        partial, Buckets.for_bytes(size), config.seed, deduplicate=data.deduplicate, shuffled=data.shuffle_documents
    )


def _layout(items: list[WorkItem], buckets: Buckets) -> dict[str, Any]:
    """How the work is cut: what was stored of the same plan, but cut in another way, can't be gone on with."""
    cuts = [[item.ranges[0].number, item.ranges[0].start] for item in items]
    return {"items": len(items), "cuts": xxhash.xxh3_128_hexdigest(json.dumps(cuts).encode()), **asdict(buckets)}


def _collect(
    items: list[WorkItem], store: DocumentStore, sources: tuple[Source, ...], data: Data, map_items: Map
) -> Totals:
    """Stores every source's documents; returns what they add up to."""
    examples = (
        ExampleReader(str(data.format), data.text_field, data.most_document_bytes, data.bad_records == REFUSE)
        if data.has_examples
        else None
    )
    work = Collect(store, data.text_field, data.most_document_bytes, examples)
    totals = Totals()
    with ProgressBar("read", sum(item.bytes for item in items)) as progress:
        for item, collected in zip(items, map_items(work, items), strict=True):
            totals.add(item, collected)
            progress.advance(bytes=item.bytes)
    totals.refuse_files_without_text(sources, data.text_field, data.most_document_bytes)
    return totals


def _arrange(totals: Totals, store: DocumentStore, sources: tuple[Source, ...], data: Data, map_items: Map) -> Corpus:
    """Orders what was stored, without duplicates, in parts."""
    stored = Stored(store, tuple(totals.records_before))
    splits = Splits(data.validation_fraction, data.test_fraction, data.shard_bytes)
    with ProgressBar("shuffle" if store.shuffled else "order", totals.bytes) as progress:
        order = _shuffle if store.shuffled else _keep_order
        parts = []
        for part in order(stored, splits, totals, map_items):
            parts.append(part)
            progress.advance(bytes=part.bytes)
    totals.tell_duplicates(sources)
    corpus = Corpus(
        stored,
        splits,
        tuple(parts),
        rejected=dict(sorted(totals.rejected.items())),
        first_rejected=totals.first_rejected,
        unused=dict(totals.unused),
        documents_read=sum(split.documents for part in parts for split in part.splits.values())
        + totals.rejected.total(),
    )
    _check_splits(corpus, data)
    return corpus


def _shuffle(stored: Stored, splits: Splits, totals: Totals, map_items: Map) -> Iterator[OrderedPart]:
    """Each bucket as a part. A file of stored documents is removed once its last bucket is in order."""
    store = stored.store
    buckets = range(store.buckets.count)
    for bucket, part in enumerate(map_items(ShuffleBucket(stored, splits), buckets)):
        totals.add_duplicates(part.duplicates, part.first_duplicate)
        file = store.buckets.file_of(bucket)
        if bucket == store.buckets.last_in(file):
            for item in stored.items:
                store.documents_path(item, file).unlink(missing_ok=True)
        yield part


def _keep_order(stored: Stored, splits: Splits, totals: Totals, map_items: Map) -> Iterator[OrderedPart]:
    """Each work item that was read as a part."""
    dropped = []
    if stored.store.deduplicate:
        for found in map_items(FindDuplicates(stored), range(stored.store.buckets.count)):
            totals.add_duplicates(found.count, found.first)
            dropped.append(found.count)
    yield from map_items(KeepOrder(stored, splits, tuple(dropped)), stored.items)


def _check_splits(corpus: Corpus, data: Data) -> None:
    """InputError where a split has no document."""
    held = {split: corpus.documents_of(split) for split in corpus.splits.names}
    documents = sum(held.values())
    if not documents:
        what = _counts(corpus.rejected) or "the files hold none"
        where = "; ".join(f"{reason}: first {place}" for reason, place in sorted(corpus.first_rejected.items()))
        raise InputError(f"data.input: no document to prepare ({what}{f'; {where}' if where else ''}).")
    for split, count in held.items():
        if not count:
            raise InputError(
                f"data.{'test' if split == 'test' else 'validation'}_fraction="
                f"{data.test_fraction if split == 'test' else data.validation_fraction}: none of the "
                f"{documents:,} documents falls into {split}: change it (0 makes no such set), or give more "
                "documents."
            )


def _training_texts(corpus: Corpus) -> Iterator[bytes]:
    """The training documents in the order of the shuffle, whether or not the shards are in it."""
    store = corpus.stored.store
    if not store.shuffled:
        yield from training_texts(corpus.stored, corpus.splits)
        return
    for part in split_in_parts(corpus.parts, "train"):
        yield from part_texts(store, "train", part)


def _plain_texts(data: Data, corpus: Corpus) -> Iterator[bytes]:
    """The training documents as text, which examples are stored around."""
    documents = _training_texts(corpus)
    if not data.has_examples:
        return documents
    return (text for document in documents for text in texts_in(document))


def with_template(tokenizer: Tokenizer, data: Data) -> Tokenizer:
    """The tokenizer with the chat template that the data ask for, and the special tokens that this writes."""
    if data.format != CHAT and data.chat_template is None:
        return tokenizer
    if data.chat_template is None and tokenizer.chat_template is not None:
        return tokenizer
    template = read_template(data.chat_template or CHATML)
    return replace(tokenizer, chat_template=template).with_special(special_tokens_of(template))


@dataclass(frozen=True)
class Encoding:
    """Who encodes, and why (tokens/encoder.py, Trial)."""

    engine: str
    why: str


@dataclass(frozen=True)
class ChooseEncoder(Work[str, Encoding]):
    """Trains the tokenizer, unless one is given, and tries it on a sample of the input."""

    config: Prepare
    corpus: Corpus
    given: Tokenizer | None

    @property
    def folder(self) -> Path:
        """Where the workers load the tokenizer from, whatever becomes of the one that was given."""
        return self.corpus.stored.store.folder / "tokenizer"

    def note(self, item: str) -> Path:
        """Who encodes, and why."""
        return self.corpus.stored.store.folder / f"{item}.json"

    def __call__(self, item: str) -> Encoding:
        """Reads the sample. InputError where the tokenizer can't say most of it."""
        note = self.note(item)
        try:
            return from_json(Encoding, read_json(note))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise self.corpus.stored.store.unreadable(note, error) from error
        if (self.folder / "tokenizer.json").exists():
            tokenizer = load_tokenizer(self.folder)
        else:
            tokenizer = self.given or with_template(_train(self.config, self.corpus), self.config.data)
            tokenizer.save(self.folder)
        texts = _plain_texts(self.config.data, self.corpus)
        trial = try_tokenizer(tokenizer, sample_texts(texts, CHECKED_BYTES))
        _check_loss(tokenizer, trial.loss, allow=self.config.data.tokenizer.allow_loss)
        encoding = Encoding(trial.engine, trial.why)
        write_json(note, asdict(encoding))
        return encoding


def _tokenizer(config: Prepare, corpus: Corpus, map_items: Map) -> tuple[Tokenizer, str]:
    """The tokenizer, loaded or trained on the training documents, and who encodes.

    gigatoken must prove itself on a sample of the input, and that must come back from its ids.
    """
    wanted, given = config.data.tokenizer, None
    if wanted.path is not None:
        given = with_template(load_tokenizer(wanted.path, wanted.end_of_text), config.data)
        _say("tokenizer", f"{given.name}: {given.vocab_size:,} tokens, documents end in {given.end_of_text}")
    work = ChooseEncoder(config, corpus, given)
    (encoding,) = map_items(work, ["encoder"])
    warning = "" if encoding.engine == "gigatoken" else "WARNING: dozens of times slower; "
    _say("encode", f"{warning}with {encoding.engine}: {encoding.why}")
    return given or load_tokenizer(work.folder), encoding.engine


def _train(config: Prepare, corpus: Corpus) -> Tokenizer:
    """Trains a tokenizer on the first training documents in the order of the shuffle."""
    wanted = config.data.tokenizer
    with ProgressBar("tokenizer", min(wanted.train.sample_bytes, corpus.bytes_of("train"))) as progress:
        texts = _counted(sample_texts(_plain_texts(config.data, corpus), wanted.train.sample_bytes), progress)
        training = TrainingText(texts, memory_bytes=wanted.train.memory_bytes)
        tokenizer = train_tokenizer(training, vocab_size=wanted.train.vocab_size, name=config.data.name)
    if training.stopped:
        _say(
            "tokenizer",
            f"trained on the first {bytes_in_words(training.given)} of the text: their distinct words fill "
            f"data.tokenizer.train.memory_bytes={wanted.train.memory_bytes}; with more it sees more",
        )
    tokenizer = replace(tokenizer, name=f"{config.data.name}-bpe-{tokenizer.vocab_size}")
    short = tokenizer.vocab_size < wanted.train.vocab_size
    less = f" (less than the {wanted.train.vocab_size:,} wanted: the text holds no more pairs)" if short else ""
    _say("tokenizer", f"{tokenizer.name}: byte-level BPE, {tokenizer.vocab_size:,} tokens{less}")
    return tokenizer


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
    data: Data,
    output: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    engine: str,
    sources: tuple[str, ...],
    map_items: Map,
) -> dict[str, list[Written]]:
    """Encodes and writes the shards of every split. A part's texts are removed with the last shard made of them."""
    store = corpus.stored.store
    work = MakeShard(
        store=store,
        tokenizer=store.folder / "tokenizer",
        end_of_text=tokenizer.end_of_text,
        engine=engine,
        dtype=tokenizer.dtype,
        block_tokens=data.block_tokens,
        examples=Examples(sources, data.bad_records == REFUSE) if data.has_examples else None,
    )
    jobs = list(_shard_jobs(output, corpus))
    last_use = {part.part: number for number, job in enumerate(jobs) for part in job.parts}
    written: dict[str, list[Written]] = {split: [] for split in corpus.splits.names}
    with ProgressBar("encode", sum(job.stop - job.start for job in jobs)) as progress:
        for number, (job, shard) in enumerate(zip(jobs, map_items(work, jobs), strict=True)):
            written[job.split].append(shard)
            for part in job.parts:
                if last_use[part.part] == number:
                    texts_path(store, part.part).unlink(missing_ok=True)
            progress.advance(bytes=shard.shard.text_bytes, tokens=shard.shard.tokens)
    return written


def _shard_jobs(output: Path, corpus: Corpus) -> Iterator[ShardJob]:
    """All shards to make: train's last, so that its parts can be let go of one by one."""
    for split in reversed(corpus.splits.names):
        make_folder(output / split)
        parts, first = split_in_parts(corpus.parts, split), 0
        ends = [*(part.first_byte for part in parts[1:]), corpus.bytes_of(split)]
        long = [
            (part.first_byte + start, length)
            for part in parts
            for start, length in corpus.parts[part.part].splits[split].long
        ]
        ranges = shard_ranges(ends[-1], corpus.splits.shard_bytes, long)
        for number, (start, stop) in enumerate(ranges):
            while ends[first] <= start:
                first += 1
            last = first
            while last < len(parts) and parts[last].first_byte < stop:
                last += 1
            yield ShardJob(output / split / f"shard-{number:06d}.tar", start, stop, tuple(parts[first:last]))


def _counted(texts: Iterator[bytes], progress: ProgressBar) -> Iterator[bytes]:
    for text in texts:
        progress.advance(bytes=len(text))
        yield text


# --------------------------------------------------------------------------------------------------------- the end


@dataclass(frozen=True)
class Finish(Work[Path, None]):
    """Writes the manifests and the last word on the plan, and tidies up."""

    config: Prepare
    output: Path
    sources: tuple[Source, ...]
    plan: PreparationPlan
    corpus: Corpus
    tokenizer: Tokenizer
    written: dict[str, list[Written]]

    def note(self, item: Path) -> Path:
        """The plan, which says that it is finished."""
        return item / PLAN_FILE

    def is_done(self, item: Path) -> bool:
        """Whether somebody has tidied up, which comes after the last word."""
        return not (item / PARTIAL / LAYOUT).exists()

    def __call__(self, item: Path) -> None:
        """Makes the output whole."""
        partial = item / PARTIAL
        if read_progress(item, self.plan) != "finished":
            for split in reversed(self.written):  # train's manifest comes last
                self.tokenizer.save(item / split / "tokenizer", scratch=partial)
                write_manifest(self._manifest(item / split), scratch=partial)
            write_plan(item, self.plan, finished=True)
        shutil.rmtree(partial, ignore_errors=True)

    def _manifest(self, folder: Path) -> Manifest:
        data, tokenizer = self.config.data, self.tokenizer
        groups = groupby(self.sources, key=lambda source: source.given)
        return Manifest(
            folder=folder,
            name=data.name,
            dtype=tokenizer.dtype,
            tokenizer_name=tokenizer.name,
            tokenizer_sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            end_of_text=tokenizer.end_of_text_id,
            special_ids=tokenizer.special_ids,
            shards=tuple(written.shard for written in self.written[folder.name]),
            rejected=self.corpus.rejected,
            documents_read=self.corpus.documents_read,
            sources=tuple(
                SourceGroup(given, data.licence, tuple(source.name for source in group)) for given, group in groups
            ),
            prepared={
                "command": [masked(typed) for typed in sys.argv],
                "version": _version(),
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                **_settings(self.config),
            },
        )


def _version() -> str:
    """Banyan's version, if it's installed."""
    try:
        return version("banyan-train")
    except PackageNotFoundError:
        return "not installed"


def _summarise(output: Path, corpus: Corpus, written: dict[str, list[Written]]) -> None:
    """Prints what came of it: every document that was read is in a split or among the rejected."""
    for split, shards in written.items():
        manifest = read_manifest(output / split)
        learnt = f" ({manifest.targets:,} of them targets)" if manifest.has_targets else ""
        _say(
            split,
            f"{manifest.documents:,} documents, {manifest.tokens:,} tokens{learnt}, "
            f"{bytes_in_words(manifest.text_bytes)} "
            f"({manifest.tokens / manifest.text_bytes:.3f} tokens per byte) in {len(manifest.shards)} shards: "
            f"{escape(output / split)}",
        )
        _warn_of_empty_documents(manifest, shards)
    _say("rejected", f"{_counts(corpus.rejected) or 'none'}, of {corpus.documents_read:,} documents read")
    for reason in corpus.rejected:
        _say("", f"{reason}: first {corpus.first_rejected[reason]}")
    for what, count in corpus.unused.items():
        _say("left out", f"{count:,} {what}")


def _warn_of_empty_documents(manifest: Manifest, shards: list[Written]) -> None:
    """Counts the documents of which the tokenizer makes no token but the end of text, and names the first."""
    count = sum(shard.wordless for shard in shards)
    if count:
        source, record = next(shard.first_wordless for shard in shards if shard.first_wordless is not None)
        first = f"{one_line(manifest.source_name(source))}, record {record}"
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
