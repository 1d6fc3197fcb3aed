"""Text → token shards: `banyan prepare data.input=PATH data.output=DIR` writes DIR/train, DIR/validation and so on.

Reading, shuffle, tokenizer, shards: each stage is a map over work items that leave their results in DIR/partial, so
that the same command continues after any end, kill -9 included, and writes the same bytes. This process holds sums, and
nothing of a document: its memory doesn't grow with them. Equal documents meet in one bucket of the shuffle.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from trainer.config import Data, Prepare
from trainer.config.encryption import use_key
from trainer.data.examples.augment import augmentation_of
from trainer.data.examples.labelled import ordered_labels
from trainer.data.examples.read import REFUSE, ExampleReader
from trainer.data.revise.revise import is_revised, revise
from trainer.data.text.cleaning import Cleaning
from trainer.data.text.collect import Collect, Totals, WorkItem, work_items
from trainer.data.text.corpus import Corpus
from trainer.data.text.cuts import find_cuts
from trainer.data.text.document_store import Damaged, DocumentStore
from trainer.data.text.encoder_choice import ChooseEncoder, with_template
from trainer.data.text.file_names import escape
from trainer.data.text.finish import Finish
from trainer.data.text.near_dropped import NEAR_DUPLICATE
from trainer.data.text.parts import OrderedPart, Splits, split_in_parts, texts_path
from trainer.data.text.plan import FILE as PLAN_FILE
from trainer.data.text.plan import (
    PARTIAL,
    SPLITS,
    PreparationPlan,
    begin_partial,
    deciding_settings,
    exclusive,
    read_progress,
    write_plan,
)
from trainer.data.text.progress import ProgressBar, bytes_in_words, say
from trainer.data.text.reading import KEPT_DOMAINS, WHOLE, most_frequent
from trainer.data.text.remote import Unreachable
from trainer.data.text.shard_job import Examples, MakeShard, ShardJob, Written
from trainer.data.text.shared_work import WorkShare, share_work
from trainer.data.text.shuffle import FindDuplicates, KeepOrder, ShuffleBucket, Stored
from trainer.data.text.sources import Found, Source, find_sources
from trainer.data.text.split import Buckets, shard_ranges
from trainer.data.text.summary import counts_in_words, print_summary
from trainer.data.text.workers import Map, available_cores, in_process, processes
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.modalities import with_modalities
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import (
    Tokenizer,
    load_tokenizer,
)
from trainer.errors import ConfigError, InputError, StorageError
from trainer.machine.durable import make_folder
from trainer.machine.sealed_folder import check_sealed, seal_folder
from trainer.machine.sealing.keyring import FILE as ENVELOPE_FILE
from trainer.rules.clean import check_signals
from trainer.rules.prepare import check_prepare, in_utf8
from trainer.rules.sources import inputs_of

if TYPE_CHECKING:
    from trainer.adapt.score_shards import Asked

UNPACKED = 4  # times that a packed source is larger, about


@dataclass(frozen=True)
class Maps:
    """How work items are mapped over: `spread` to all workers, or `here`, one after the other in this process."""

    spread: Map
    here: Map


def main(config: Prepare, map_items: Map | None = None, share: WorkShare | None = None) -> int:
    """Runs `banyan prepare`; 0 when done. `map_items` replaces the map over processes (Ray passes in its own).

    With a `share` this is one of several processes, perhaps on other machines, that prepare the folder together.
    """
    use_key(config)
    output = check_prepare(config)
    config = replace(config, data=in_utf8(config.data))
    data = config.data
    found = find_sources(inputs_of(data), data.include, data.exclude, output)
    asked = _asked(data)
    plan = PreparationPlan.of(deciding_settings(config, asked.records if asked else {}), found.sources)
    check_signals(data.clean, plan)
    say("sources", _describe(found))
    make_folder(output)
    encrypts = data.encryption.source is not None
    with exclusive(output, shared=share is not None) as alone, ExitStack() as stack:
        begun = (output / name for name in (PLAN_FILE, *SPLITS))
        check_sealed(output, "data.output", wanted=encrypts, begun=begun)
        if encrypts:
            seal_folder(output)
        progress = read_progress(output, plan)
        if progress == "finished":
            return _up_to_date(output)
        if progress == "begun" and share is None:
            say("continue", f"the same prepare was interrupted; what it left in {escape(output / PARTIAL)} is used")
        make_folder(output / PARTIAL)
        if progress == "new":
            write_plan(output, plan, finished=False)
        own_map = stack.enter_context(processes(data.workers or available_cores()))
        maps = Maps(map_items or own_map, in_process)
        try:
            if share is not None:
                shared = stack.enter_context(share_work(output / PARTIAL / "claims", share))
                maps = Maps(shared(maps.spread), shared(maps.here))
            _prepare(config, output, found.sources, plan, maps, asked, shared=share is not None)
        except (InputError, ConfigError, StorageError, OSError) as error:
            if share is not None and read_progress(output, plan) == "finished":
                return _up_to_date(output)  # others were faster, and have tidied up
            other_plan = isinstance(error, InputError | ConfigError) and not isinstance(error, Damaged | Unreachable)
            if other_plan and alone():
                _withdraw(output)  # the mend changes the plan, and mustn't meet this one
            raise
    return 0


def _prepare(
    config: Prepare,
    output: Path,
    sources: tuple[Source, ...],
    plan: PreparationPlan,
    maps: Maps,
    asked: Asked | None,
    *,
    shared: bool,
) -> None:
    """The stages, top to bottom."""
    data = config.data
    store = _store(config, output / PARTIAL, sources)
    whole = {number: [WHOLE] for number in range(len(sources))} if data.has_examples else None
    items = work_items(sources, whole)
    begin_partial(output, _layout(items, store.buckets), alone=not shared)
    if shared and read_progress(output, plan) == "finished":  # and tidied up, just before we began
        _up_to_date(output)
        return
    if whole is None and (cuts := find_cuts(sources, store, maps.spread)):
        items = work_items(sources, cuts)
    totals = _collect(items, store, sources, data, maps.spread)
    corpus = _arrange(totals, store, sources, data, maps)
    tokenizer, engine = _tokenizer(config, corpus, maps.here)
    names = tuple(source.name for source in sources)
    if asked is not None:
        asked.check_vocabulary(tokenizer, store.folder / "tokenizer" / "tokenizer.json", output)
    unasked = output if asked is None else output / PARTIAL / "unasked"
    written = _write_shards(config, unasked, corpus, tokenizer, engine, names, maps.spread)
    corpus = with_unrendered(corpus, written)
    if asked is not None:
        written = _ask_models(asked, written, unasked, output, tokenizer, maps.spread)
    finish = Finish(config, output, sources, plan, corpus, tokenizer, written, asked.records if asked else {})
    for _ in maps.here(finish, [output]):
        print_summary(output, corpus, written)


# ------------------------------------------------------------------------------------------------------ the outset


def _describe(found: Found) -> str:
    size = bytes_in_words(sum(source.bytes for source in found.sources))
    left_out = f" ({found.others})" if str(found.others) else ""
    return f"{len(found.sources):,} files, {size}{left_out}"


def _up_to_date(output: Path) -> int:
    """Says that there is nothing to do, once what was made is still there."""
    shutil.rmtree(output / PARTIAL, ignore_errors=True)  # killed between the last word and the tidying
    for split in SPLITS:
        if split == "train" or (output / split).exists():
            manifest = read_manifest(output / split)
            open_shards(manifest)
            say(
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
    (output / ENVELOPE_FILE).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------ the stages


def _store(config: Prepare, partial: Path, sources: tuple[Source, ...]) -> DocumentStore:
    """Where and how documents are stored; in how many buckets, follows from the sources' sizes alone."""
    size = sum(source.bytes * (UNPACKED if source.packing else 1) for source in sources)
    data = config.data
    return DocumentStore(
        partial,
        Buckets.for_bytes(size),
        config.seed,
        deduplicate=data.deduplicate,
        shuffled=data.shuffle_documents,
        counts_copies=data.near_duplicates,
    )


def _layout(items: list[WorkItem], buckets: Buckets) -> dict[str, Any]:
    """How the work is cut, as far as is known at once: what was stored of the same plan, cut otherwise, is useless."""
    cuts = [[item.parts[0].number, item.parts[0].part.start] for item in items]
    return {"items": len(items), "cuts": xxhash.xxh3_128_hexdigest(json.dumps(cuts).encode()), **asdict(buckets)}


def _collect(
    items: list[WorkItem], store: DocumentStore, sources: tuple[Source, ...], data: Data, map_items: Map
) -> Totals:
    """Stores every source's documents; returns what they add up to."""
    examples = None
    if data.has_examples:
        examples = ExampleReader(str(data.format), data.bad_records == REFUSE, tuple(data.labels), data.modalities)
    work = Collect(store, Cleaning.of(data.clean, len(items)), examples)
    totals = Totals()
    with ProgressBar("read", sum(item.bytes for item in items)) as progress:
        for item, collected in zip(items, map_items(work, items), strict=True):
            totals.add(item, collected)
            progress.advance(bytes=item.bytes)
    totals.refuse_files_without_text(sources)
    return totals


def _arrange(totals: Totals, store: DocumentStore, sources: tuple[Source, ...], data: Data, maps: Maps) -> Corpus:
    """Orders what was stored, without duplicates, in parts."""
    read = stored = Stored(store, tuple(totals.records_before))
    splits = Splits(data.validation_fraction, data.test_fraction, data.shard_bytes)
    if data.near_duplicates:
        _find_near_duplicates(read, totals, sources, data, maps)
    if is_revised(data):
        stored = revise(read, totals, sources, data, maps.spread)
        store = stored.store
    with ProgressBar("shuffle" if store.shuffled else "order", totals.bytes) as progress:
        order = _shuffle if store.shuffled else _keep_order
        parts = []
        for part in order(stored, splits, totals, maps.spread):
            parts.append(part)
            progress.advance(bytes=part.bytes)
    totals.tell_duplicates(sources)
    corpus = Corpus(
        read,
        stored,
        splits,
        tuple(parts),
        rejected=dict(sorted(totals.rejected.items())),
        first_rejected=totals.first_rejected,
        unused=dict(totals.unused),
        changed=dict(sorted(totals.changed.items())),
        domains=most_frequent(totals.domains, KEPT_DOMAINS),
        labels=tuple(data.labels) or ordered_labels(totals.labels),
        documents_read=sum(split.documents for part in parts for split in part.splits.values())
        + totals.rejected.total()
        - totals.copies,
    )
    _check_splits(corpus, data)
    return corpus


def _find_near_duplicates(stored: Stored, totals: Totals, sources: tuple[Source, ...], data: Data, maps: Maps) -> None:
    """Finds the documents that are nearly the same as another, and counts them."""
    from trainer.data.near.find import find_near_duplicates
    from trainer.data.near.minhash import Scheme

    near = data.near
    found = find_near_duplicates(stored, near, maps.spread, maps.here)
    if found.first is not None:
        source, record = found.first
        totals.rejected[NEAR_DUPLICATE] += found.dropped
        totals.first_rejected[NEAR_DUPLICATE] = f"{sources[source].name}, record {record}"
    scheme = Scheme(near.words, near.bands, near.rows)
    chances = ", ".join(f"{scheme.found(s):.2f} at {s:.2f}" for s in (0.7, 0.8, 0.9))
    say(
        "near",
        f"{found.dropped:,} documents dropped, {sum(found.sizes.values()):,} clusters, {found.near_pairs:,} of "
        f"{found.compared:,} pairs near; chance that two meet, by similarity: {chances}",
    )


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
        what = counts_in_words(corpus.rejected) or "the files hold none"
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


def with_unrendered(corpus: Corpus, written: dict[str, list[Written]]) -> Corpus:
    """With the examples that couldn't be rendered among the rejected. InputError where none is left to train on."""
    rejected, first = Counter(corpus.rejected), dict(corpus.first_rejected)
    for shard in (shard for shards in written.values() for shard in shards):
        rejected.update(shard.rejected)
        for reason, place in shard.first_rejected.items():
            first.setdefault(reason, place)
    if not any(shard.shard.documents for shard in written["train"]):
        where = "; ".join(f"{reason}: first {place}" for reason, place in sorted(first.items()))
        raise InputError(f"data.input: no document to prepare ({counts_in_words(rejected)}; {where}).")
    return replace(corpus, rejected=dict(sorted(rejected.items())), first_rejected=first)


def _tokenizer(config: Prepare, corpus: Corpus, map_items: Map) -> tuple[Tokenizer, str]:
    """The tokenizer, loaded or trained on the training documents, and who encodes.

    gigatoken must prove itself on a sample of the input, and that must come back from its ids.
    """
    wanted, given = config.data.tokenizer, None
    if wanted.path is not None:
        given = load_tokenizer(wanted.path, wanted.end_of_text)
    work = ChooseEncoder(config, corpus, given)
    (encoding,) = map_items(work, ["encoder"])
    if given is not None:
        given = with_modalities(with_template(given, config.data, chats=encoding.chats), config.data.modalities)
        say("tokenizer", f"{given.name}: {given.vocab_size:,} tokens, documents end in {given.end_of_text}")
    warning = "" if encoding.engine == "gigatoken" else "WARNING: dozens of times slower; "
    say("encode", f"{warning}with {encoding.engine}: {encoding.why}")
    return given or load_tokenizer(work.folder), encoding.engine


def _write_shards(
    config: Prepare,
    output: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    engine: str,
    sources: tuple[str, ...],
    map_items: Map,
) -> dict[str, list[Written]]:
    """Encodes and writes the shards of every split. A part's texts are removed with the last shard made of them."""
    data, store, examples = config.data, corpus.stored.store, None
    if data.has_examples:
        augmentation = augmentation_of(data.augment, config.seed)
        examples = Examples(sources, data.bad_records == REFUSE, corpus.labels, augmentation)
    work = MakeShard(
        store=store,
        tokenizer=store.folder / "tokenizer",
        end_of_text=tokenizer.end_of_text,
        engine=engine,
        dtype=tokenizer.dtype,
        block_tokens=data.block_tokens,
        examples=examples,
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


def _asked(data: Data) -> Asked | None:
    """The models that data.reference and data.teacher name; None where there are none, and no torch is needed."""
    if data.reference is None and data.teacher is None:
        return None
    from trainer.adapt.ask import asked_models

    return asked_models(data)


def _ask_models(
    asked: Asked, written: dict[str, list[Written]], unasked: Path, output: Path, tokenizer: Tokenizer, map_items: Map
) -> dict[str, list[Written]]:
    """The shards in `unasked`, written anew to `output` with what the models say of their documents."""
    from trainer.adapt.ask import ask_models

    shards = {split: [each.shard for each in found] for split, found in written.items()}
    whole = ask_models(asked, shards, unasked, output, tokenizer, map_items)
    return {
        split: [replace(each, shard=shard) for each, shard in zip(found, whole[split], strict=True)]
        for split, found in written.items()
    }


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
