"""An indexed dataset, read once more: whether its tars still hold what was indexed, whatever their times.

A tar that was copied has another time, and so has one that was fetched anew: where its index comes
out the same, the manifest takes the new state, and the dataset is the one that it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trainer.data.text.reading import Reading
from trainer.data.text.sources import Input, find_sources
from trainer.data.tokens.manifest import Manifest, Shard, write_manifest
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.data.web.index_tar import IndexTar, TarItem
from trainer.errors import InputError
from trainer.machine.durable import replacing


def read_again(manifest: Manifest) -> Iterator[tuple[Shard, Path]]:
    """Each shard as its tar is now, and the index of it, which lies there until the next one is asked for."""
    assert manifest.indexed is not None
    ends = {number: token for token, number in manifest.special_ids.items()}
    tokenizer = load_tokenizer(manifest.tokenizer_file.parent, ends.get(manifest.end_of_text))
    reading = Reading(
        text_field=manifest.indexed.text_field, most_bytes=manifest.indexed.most_document_bytes, format="tar"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer.save(folder / "tokenizer")
        work = IndexTar(folder, folder, tokenizer.end_of_text, tokenizer.vocab_size, manifest.indexed.engine)
        for number, shard in enumerate(manifest.shards):
            assert shard.indexed is not None
            (source,) = find_sources([Input(shard.indexed.address, reading=reading)], [], [], folder).sources
            path = folder / shard.file
            yield work.read(TarItem(number, source), path).shard, path
            path.unlink()


def index_again(manifest: Manifest) -> Manifest:
    """Writes the indices anew, and the manifest with the state that the tars have now. InputError if one is another."""
    shards = []
    for before, (now, path) in zip(manifest.shards, read_again(manifest), strict=True):
        problem = describe_difference(before, now)
        if problem:
            raise InputError(f"{manifest.folder / before.file}: {problem}")
        with replacing(manifest.folder / before.file) as file:
            file.write(path.read_bytes())
        shards.append(now)
    manifest = replace(manifest, shards=tuple(shards))
    write_manifest(manifest)
    return manifest


def verify_tars(manifest: Manifest) -> Iterator[str]:
    """Reads every tar and compares it with its index; a line for each problem."""
    again = read_again(manifest)
    for shard in manifest.shards:
        try:
            now, path = next(again)
        except InputError as error:
            yield str(error)
            return
        problem = describe_difference(shard, now)
        if problem:
            yield f"{manifest.folder / shard.file}: {problem}"
        elif not _equal(manifest.folder / shard.file, path):
            yield f'{manifest.folder / shard.file}: not the index of the manifest; run "banyan data index DIR".'


def describe_difference(before: Shard, now: Shard) -> str | None:
    """How a tar differs from what was indexed: a phrase, or None."""
    if before.sha256 == now.sha256:
        return None
    assert before.indexed is not None
    return (
        f"{before.indexed.address} isn't what was indexed: {now.documents:,} documents of {now.tokens:,} tokens, "
        f"{before.documents:,} of {before.tokens:,} then, or others; restore it, or index it to another folder."
    )


def _equal(left: Path, right: Path) -> bool:
    return left.is_file() and left.read_bytes() == right.read_bytes()
