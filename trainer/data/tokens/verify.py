"""Compares a dataset with its manifest, down to the last token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainer.data.tokens.block_members import KINDS
from trainer.data.tokens.blocks import Block
from trainer.data.tokens.manifest import Manifest, Shard
from trainer.data.tokens.shard_index import build_index
from trainer.data.tokens.shards import ShardReader
from trainer.data.tokens.tokenizer import tokenizer_sha256
from trainer.errors import InputError
from trainer.machine.sealing.plaintext import stored_sha256
from trainer.machine.sealing.user_key import KeyProblem


def verify(manifest: Manifest) -> list[str]:
    """Reads everything and compares it with the manifest; every problem is one line. KeyProblem without its key."""
    problems = []
    try:
        if tokenizer_sha256(manifest.tokenizer_file) != manifest.tokenizer_sha256:
            problems.append(
                f"{manifest.tokenizer_file}: not the tokenizer of the manifest (sha256 differs); fetch it again."
            )
    except KeyProblem:
        raise  # of all files alike
    except InputError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{manifest.tokenizer_file}: can't be read ({error.strerror}).")
    if manifest.indexed is not None:
        from trainer.data.web.index_again import verify_tars

        return [*problems, *verify_tars(manifest)]
    for shard in manifest.shards:
        try:
            for problem in _verify_shard(manifest, shard):
                problems.append(f"{manifest.folder / shard.file}: {problem}")
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{manifest.folder / shard.file}: can't be read ({error.strerror}).")
    return problems


def _verify_shard(manifest: Manifest, shard: Shard) -> Iterator[str]:
    path = manifest.folder / shard.file
    if not path.is_file():
        yield "the shard is missing; fetch it, or prepare the data again."
        return
    if path.stat().st_size != shard.bytes:
        yield f"{path.stat().st_size:,} bytes, {shard.bytes:,} expected by the manifest; fetch it again."
    elif stored_sha256(path) != shard.sha256:
        yield "sha256 differs from the manifest's: the file is damaged or replaced; fetch it, or prepare it again."
    built = build_index(path, manifest.dtype)
    reader = ShardReader(manifest.folder, shard, manifest.dtype)
    if not np.array_equal(built, reader.index):
        yield f'the index doesn\'t fit the tar; run "banyan data index {manifest.folder}".'
        return
    text_bytes, targets = 0, 0
    for number in range(len(built)):
        block = reader.block(number)
        for problem in _block_problems(block, manifest):
            yield f"block {number}: {problem}; prepare it again."
        text_bytes += sum(document.bytes for document in block.documents)
        targets += 0 if block.targets is None else int(block.targets.sum())
    if targets != (shard.targets or 0):
        yield f"{targets:,} tokens are targets, {shard.targets or 0:,} expected by the manifest; prepare it again."
    if text_bytes != shard.text_bytes:
        yield f"{text_bytes:,} bytes of text, {shard.text_bytes:,} expected by the manifest; prepare it again."


def _block_problems(block: Block, manifest: Manifest) -> Iterator[str]:
    if len(block.documents) != len(block.lengths):
        yield f"{len(block.documents):,} documents listed, {len(block.lengths):,} lengths"
    if block.lengths.sum(dtype=np.int64) != len(block.tokens):
        yield f"the lengths add up to {block.lengths.sum(dtype=np.int64):,}, but it holds {len(block.tokens):,} tokens"
    if any(not manifest.has_source(document.source) for document in block.documents):
        yield "a document comes from a source that manifest.json doesn't name"
    yield from _member_problems(block, manifest)
    if len(block.tokens) and int(block.tokens.max()) >= manifest.vocab_size:
        yield f"token {int(block.tokens.max())} is outside the vocabulary of {manifest.vocab_size:,}"
    ends = np.flatnonzero(block.tokens == manifest.end_of_text) + 1
    expected = np.cumsum(block.lengths, dtype=np.int64)
    inside = block.targets is not None  # where turns of a chat may end in it as well
    if not (np.isin(expected, ends).all() if inside else np.array_equal(ends, expected)):
        yield "the end-of-text tokens aren't where the documents' lengths put them"


def _member_problems(block: Block, manifest: Manifest) -> Iterator[str]:
    """What can't be in the members of block_members.KINDS."""
    for name, values in block.members.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            yield f"{name} holds what is no number"
        if KINDS[name].dtype is None and values.size and int(values.max()) >= manifest.vocab_size:
            yield f"{name} holds the token {int(values.max())}, outside the vocabulary of {manifest.vocab_size:,}"
    sides = block.members.get("sides")
    if sides is not None and ((sides[:, 0] < 2) | (sides[:, 0] >= block.lengths)).any():
        yield "a pair of answers, of which one would have no token"
