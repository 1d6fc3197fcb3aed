"""Index WebDatasets of others: `banyan data index 'PATTERN' data.output=DIR data.tokenizer.path=…`; DIR is trained on.

The tars stay where they are, and are read once, each by one process; what is written is small. The same command
continues after any end, kill -9 included, and writes the same bytes, however many processes or machines there are.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Data, Prepare, flatten
from trainer.data.text.file_names import escape
from trainer.data.text.finish import manifest_of
from trainer.data.text.plan import FILE as PLAN_FILE
from trainer.data.text.plan import LAYOUT, PARTIAL, PreparationPlan, begin_partial, exclusive, read_progress, write_plan
from trainer.data.text.progress import ProgressBar, bytes_in_words, say
from trainer.data.text.reading import Reading
from trainer.data.text.shared_work import WorkShare, share_work
from trainer.data.text.sources import Input, Source, find_sources
from trainer.data.text.summary import counts_in_words
from trainer.data.text.workers import Map, Work, available_cores, in_process, processes
from trainer.data.tokens.manifest import IndexedRecord, Manifest, read_manifest, write_manifest
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer
from trainer.data.web.index_tar import IndexedShard, IndexTar, TarItem, TryEncoder
from trainer.data.web.layouts import with_manifests
from trainer.errors import ConfigError, InputError, require
from trainer.machine.durable import make_folder

VERSION = 1  # raise it when the same tars would get other indices
KEYS = (  # of the section data, that an index knows
    *("name", "input", "include", "exclude", "output", "format", "text_field", "most_document_bytes", "licence"),
    *("language", "refuse_licences", "workers", "tokenizer.path", "tokenizer.end_of_text", "tokenizer.allow_loss"),
)


def main(config: Prepare, map_items: Map | None = None, share: WorkShare | None = None) -> int:
    """Runs `banyan data index … data.output=DIR`; 0 when done. `map_items` and `share` are as for prepare."""
    data, output = config.data, _check(config.data)
    reading = Reading(text_field=data.text_field, most_bytes=data.most_document_bytes, format="tar")
    named = with_manifests([Input(given, "data.input", reading, data.licence) for given in data.input])
    sources = find_sources(named.inputs, data.include, data.exclude, output).sources
    _check_plain(sources)
    items = tuple(TarItem(number, source, named.expected.get(source.address)) for number, source in enumerate(sources))
    tokenizer = load_tokenizer(str(data.tokenizer.path), data.tokenizer.end_of_text)
    settings = _settings(data, tokenizer)
    plan = PreparationPlan.of(settings, sources)
    say("tars", f"{len(sources):,}, {bytes_in_words(sum(source.bytes for source in sources))}")
    make_folder(output)
    with exclusive(output, shared=share is not None) as alone, ExitStack() as stack:
        progress = read_progress(output, plan)
        if progress == "finished":
            return _tell_finished(output)
        if progress == "begun" and share is None:
            say("continue", f"the same command was interrupted; what it left in {escape(output)} is used")
        make_folder(output / PARTIAL)
        if progress == "new":
            write_plan(output, plan, finished=False)
        spread = map_items or stack.enter_context(processes(data.workers or available_cores()))
        here: Map = in_process
        try:
            if share is not None:
                shared = stack.enter_context(share_work(output / PARTIAL / "claims", share))
                spread, here = shared(spread), shared(here)
            begin_partial(output, {"tars": len(items)}, alone=share is None)
            _index(config, output, items, tokenizer, settings, plan, spread, here)
        except (InputError, ConfigError, OSError):
            if share is not None and read_progress(output, plan) == "finished":
                return _tell_finished(output)  # others were faster, and have tidied up
            if progress == "new" and alone() and not any(output.glob("shard-*.index")):
                shutil.rmtree(output / PARTIAL, ignore_errors=True)  # the mend may be another command
                (output / PLAN_FILE).unlink(missing_ok=True)
            raise
    return 0


def _index(
    config: Prepare,
    output: Path,
    items: tuple[TarItem, ...],
    tokenizer: Tokenizer,
    settings: dict[str, Any],
    plan: PreparationPlan,
    spread: Map,
    here: Map,
) -> None:
    """The stages: who encodes, the tars, the manifest."""
    partial = output / PARTIAL
    (encoder,) = here(TryEncoder(partial, tokenizer, items, config.data.tokenizer.allow_loss), ["encoder"])
    say("encode", f"with {encoder.engine}: {encoder.why}")
    work = IndexTar(output, partial, tokenizer.end_of_text, tokenizer.vocab_size, encoder.engine)
    indexed = []
    with ProgressBar("index", sum(item.source.bytes for item in items)) as progress:
        for item, found in zip(items, spread(work, items), strict=True):
            indexed.append(found)
            progress.advance(bytes=item.source.bytes, tokens=found.shard.tokens)
    manifest = _manifest(config.data, output, items, tokenizer, settings, indexed, encoder.engine)
    for _ in here(_Finish(manifest, tokenizer, plan), [output]):
        _summarise(manifest, indexed)


@dataclass(frozen=True)
class _Finish(Work[Path, None]):
    """Writes the manifest, then the last word on the plan, and tidies up."""

    manifest: Manifest
    tokenizer: Tokenizer
    plan: PreparationPlan

    def note(self, item: Path) -> Path:
        return item / PLAN_FILE

    def is_done(self, item: Path) -> bool:
        return not (item / PARTIAL / LAYOUT).exists()

    def __call__(self, item: Path) -> None:
        if read_progress(item, self.plan) != "finished":
            self.tokenizer.save(item / "tokenizer", scratch=item / PARTIAL)
            write_manifest(self.manifest, scratch=item / PARTIAL)
            write_plan(item, self.plan, finished=True)
        shutil.rmtree(item / PARTIAL, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------ the outset


def _check(data: Data) -> Path:
    """Refuses what an index can't be asked for; returns the output folder."""
    default, now = flatten(dataclasses.asdict(Data())), flatten(dataclasses.asdict(data))
    other = next((key for key, value in now.items() if value != default.get(key) and not _is_known(key)), None)
    require(
        other is None,
        f"data.{other} has no effect on an index: documents stay as their tars have them; leave it out, or make token "
        "shards of the tars by banyan prepare.",
    )
    require(
        bool(data.input), "banyan data index: name tars: a pattern such as 's3://bucket/{000..127}.tar', or a folder."
    )
    require(
        data.format in (None, "tar"), f"data.format={data.format}: an index is of tars; banyan prepare reads others."
    )
    require(
        data.tokenizer.path is not None,
        "data.tokenizer.path is not set: name the tokenizer to encode texts with, or that tokens were made with.",
    )
    require(bool(data.output), "data.output is not set: name the folder that the index shall be written to.")
    output = Path(str(data.output)).expanduser()
    standing = next((place for place in (output, *output.parents) if place.exists()), Path())
    require(standing.is_dir(), f"data.output={output}: {standing} is a file; choose a folder.")
    return output


def _is_known(key: str) -> bool:
    return key in KEYS or key == "path" or key.startswith("tokenizer.train.")


def _check_plain(sources: tuple[Source, ...]) -> None:
    """Refuses packed tars, of which nothing can be read but from the beginning."""
    for source in sources:
        name = source.file_name.lower()
        require(
            not name.endswith((".gz", ".tgz", ".zst", ".bz2", ".xz")),
            f"{escape(source.address)}: a packed tar can't be read from any place; unpack it to .tar.",
        )


def _settings(data: Data, tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides the index, by key."""
    return {
        "index version": VERSION,
        "data.name": data.name,
        "data.text_field": data.text_field,
        "data.most_document_bytes": data.most_document_bytes,
        "data.licence": data.licence,
        **({"data.language": data.language} if data.language else {}),
        "data.tokenizer.path's sha256": tokenizer.sha256,
        "data.tokenizer.end_of_text": tokenizer.end_of_text,
    }


def _tell_finished(output: Path) -> int:
    """Says that there is nothing to do."""
    shutil.rmtree(output / PARTIAL, ignore_errors=True)
    manifest = read_manifest(output)
    say("index", f"{manifest.documents:,} documents, {manifest.tokens:,} tokens: up to date in {escape(output)}")
    return 0


# --------------------------------------------------------------------------------------------------------- the end


def _manifest(
    data: Data,
    output: Path,
    items: tuple[TarItem, ...],
    tokenizer: Tokenizer,
    settings: dict[str, Any],
    indexed: list[IndexedShard],
    engine: str,
) -> Manifest:
    rejected: Counter[str] = Counter()
    for each in indexed:
        rejected.update(each.rejected)
    return manifest_of(
        output,
        data.name,
        tokenizer,
        (item.source for item in items),
        settings=settings,
        shards=tuple(each.shard for each in indexed),
        rejected=dict(sorted(rejected.items())),
        documents_read=sum(each.records for each in indexed),
        indexed=IndexedRecord(
            data.text_field, data.most_document_bytes, engine, sum(each.stored_tokens for each in indexed)
        ),
    )


def _summarise(manifest: Manifest, indexed: list[IndexedShard]) -> None:
    """Says what was found."""
    first: dict[str, str] = {}
    unused: Counter[str] = Counter()
    for each in indexed:
        unused.update(each.unused)
        for reason, place in each.first_rejected.items():
            first.setdefault(reason, place)
    stored = sum(each.stored_tokens for each in indexed)
    tokens = f", {stored:,} of them tokens already" if stored else ""
    say(
        "documents",
        f"{manifest.documents:,} in {len(indexed):,} tars{tokens}; {manifest.tokens:,} tokens, "
        f"{manifest.text_bytes:,} bytes of text",
    )
    if manifest.rejected:
        say("rejected", f"{counts_in_words(manifest.rejected)}, of {manifest.documents_read:,} records read")
    for reason, place in sorted(first.items()):
        say("", f"{reason}: first {place}")
    for what, count in unused.items():
        if count:
            say("left out", f"{count:,} {what}")
    say("index", f"in {escape(manifest.folder)}: train on it by data.path={escape(manifest.folder)}")
