"""What prepare says at its end: tokens of each split, and an account of every document that was read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from trainer.data.text.corpus import Corpus
from trainer.data.text.file_names import escape
from trainer.data.text.progress import bytes_in_words, say
from trainer.data.text.shard_job import Written
from trainer.data.tokens.manifest import Manifest, read_manifest
from trainer.machine.terminal import one_line

SHOWN_LABELS = 20


def print_summary(output: Path, corpus: Corpus, written: dict[str, list[Written]]) -> None:
    """Prints what came of it: every document that was read is in a split or among the rejected."""
    for split, shards in written.items():
        manifest = read_manifest(output / split)
        learnt = f" ({manifest.targets:,} of them targets)" if manifest.has_targets else ""
        say(
            split,
            f"{manifest.documents:,} documents, {manifest.tokens:,} tokens{learnt}, "
            f"{bytes_in_words(manifest.text_bytes)} "
            f"({manifest.tokens / manifest.text_bytes:.3f} tokens per byte) in {len(manifest.shards)} shards: "
            f"{escape(output / split)}",
        )
        _warn_of_empty_documents(manifest, shards)
    if corpus.labels:
        more = f" … ({len(corpus.labels):,})" if len(corpus.labels) > SHOWN_LABELS else ""
        say("labels", ", ".join(map(one_line, corpus.labels[:SHOWN_LABELS])) + more)
    say("rejected", f"{counts_in_words(corpus.rejected) or 'none'}, of {corpus.documents_read:,} documents read")
    for reason in corpus.rejected:
        say("", f"{reason}: first {corpus.first_rejected[reason]}")
    for what, count in corpus.unused.items():
        say("left out", f"{count:,} {what}")
    for what, count in corpus.changed.items():
        say("changed", f"{count:,} documents: {what}")


def _warn_of_empty_documents(manifest: Manifest, shards: list[Written]) -> None:
    """Counts the documents of which the tokenizer makes no token but the end of text, and names the first."""
    count = sum(shard.wordless for shard in shards)
    if count:
        source, record = next(shard.first_wordless for shard in shards if shard.first_wordless is not None)
        first = f"{one_line(manifest.source_name(source))}, record {record}"
        what = f"{count:,} document{'s' * (count > 1)} of {manifest.folder.name}"
        say("tokenizer", f"WARNING: of {what} no token is left but the end of text; the first is {first}")


def counts_in_words(counts: Counter[str] | dict[str, int]) -> str:
    """How many of each, as a phrase."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()) if count)
