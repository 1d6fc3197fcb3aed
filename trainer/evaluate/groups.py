"""The documents of a validation set by source and by language: losses of each, and figures of each group.

A document's source is the input that it came from (data.sources.NAME, or an entry of data.input). Its language is what
was stated of its source, or else guessed (trainer/data/clean/identify.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from trainer.data.clean.identify import identify_tokens, language_model
from trainer.data.tokens.blocks import Document
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.document_pieces import DocumentPieces
from trainer.data.tokens.manifest import Manifest
from trainer.data.tokens.stated import stated_language, stated_name
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import InputError

SOURCE, LANGUAGE, BOTH, NONE = "source", "language", "both", "none"  # of evaluate.split_by
LEAST_SHARE = 0.01  # of the text, below which languages are told together: many are wrong guesses
MOST_GROUPS = 50
OTHER, UNKNOWN = "other", "unknown"

Guess = Callable[[np.ndarray], str]


@dataclass(frozen=True)
class GroupScore:
    """What was scored of a group: `nats` over `tokens` targets, which are `text_bytes` of its documents.

    Where not all of a document is scored, as many of its bytes count as of its tokens. `text_bytes` is 0 where a
    document was tokens already when it came: the bytes of its text aren't known, nor then the group's.
    """

    documents: int
    tokens: int
    text_bytes: float
    nats: float

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """As of a whole set, but by the tokens and bytes of this group."""
        return self.nats / (math.log(2) * self.text_bytes) if self.text_bytes else math.nan

    @property
    def tokens_per_byte(self) -> float:
        """Tokens, end-of-text ones included, for a UTF-8 byte."""
        return self.tokens / self.text_bytes if self.text_bytes else math.nan


@dataclass(frozen=True)
class ScoredDocuments:
    """The documents of a set's scored rows, in file order, all (documents,): what was scored of each, and its groups.

    `groups[kind]` has the names, and the number of each document's among them.
    """

    numbers: np.ndarray
    tokens: np.ndarray
    text_bytes: np.ndarray
    groups: dict[str, tuple[list[str], np.ndarray]]

    def by_group(self, nats: np.ndarray) -> dict[str, dict[str, GroupScore]]:
        """The figures of each group of each kind, those with most text first, from the documents' losses."""
        found: dict[str, dict[str, GroupScore]] = {}
        for kind, (names, members) in self.groups.items():
            sums = [np.bincount(members, weights, len(names)) for weights in (None, self.tokens, self.text_bytes, nats)]
            sums[2][members[(self.text_bytes == 0) & (self.tokens > 0)]] = 0
            scores = {
                name: GroupScore(int(documents), int(tokens), float(text_bytes), float(loss))
                for name, documents, tokens, text_bytes, loss in zip(names, *sums, strict=True)
            }
            found[kind] = dict(sorted(scores.items(), key=lambda each: (-each[1].text_bytes, each[0])))
        return found


def open_documents(
    dataset: Dataset, pieces: DocumentPieces, split_by: str, *, say: Callable[[str], None], beat: Callable[[], None]
) -> ScoredDocuments:
    """Reads what the documents of `pieces` are. `say` is told in a line where languages can't be guessed."""
    numbers = np.unique(pieces.documents)
    tokens = np.bincount(pieces.documents, pieces.targets)[numbers]
    names, manifest = source_names(dataset.manifest), dataset.manifest
    guess = _open_guess(dataset, say) if split_by in (LANGUAGE, BOTH) else None
    stated = [stated_language(manifest, group) for group in manifest.sources]
    text_bytes, sources, languages = np.zeros(len(numbers)), [], []
    wanted = dict(zip(numbers.tolist(), range(len(numbers)), strict=True))
    for number, (document, content) in enumerate(_documents(dataset, int(numbers[-1]) + 1, beat)):
        place = wanted.get(number)
        if place is None:
            continue
        text_bytes[place] = document.bytes * tokens[place] / (len(content) + 1)
        group = manifest.group_of(document.source)
        sources.append(UNKNOWN if group is None else names[group])
        if guess is not None:
            languages.append((None if group is None else stated[group]) or guess(content))
    groups = {}
    if split_by in (SOURCE, BOTH):
        groups[SOURCE] = _numbered(sources, text_bytes, least=0.0)
    if guess is not None:
        groups[LANGUAGE] = _numbered(languages, text_bytes, least=LEAST_SHARE)
    return ScoredDocuments(numbers, tokens, text_bytes, groups)


def source_names(manifest: Manifest) -> list[str]:
    """A name for each group of sources: its own in data.sources, or the end of its path by which it is told apart."""
    stated = [stated_name(manifest, group) for group in manifest.sources]
    paths = [_parts(group.input) for group in manifest.sources]
    most = max(map(len, paths), default=1)
    for count in range(1, most + 1):
        ends = ["_".join(path[-count:]) for path in paths]
        if len(set(ends)) == len(set(map(tuple, paths))):
            break
    return [_plain(name or end) for name, end in zip(stated, ends, strict=True)] if paths else []


def _parts(path: str) -> list[str]:
    return [part for part in path.split("?")[0].replace("\\", "/").split("/") if part not in ("", ".")] or [path]


def _plain(name: str) -> str:
    """A name that can stand in a metric's."""
    return "".join(letter if letter.isalnum() or letter in "._-+=" else "_" for letter in name) or "_"


def _open_guess(dataset: Dataset, say: Callable[[str], None]) -> Guess | None:
    manifest = dataset.manifest
    if all(stated_language(manifest, group) for group in manifest.sources):
        return lambda tokens: ""  # never asked
    try:
        model: Any = language_model("telling languages")
    except InputError as error:
        say(f"{dataset.name}: figures by language are left out: {error} evaluate.split_by=source asks for none.")
        return None
    tokenizer = load_tokenizer(manifest.folder / "tokenizer")
    return lambda tokens: identify_tokens(model, tokens, tokenizer)


def _documents(dataset: Dataset, count: int, beat: Callable[[], None]) -> Iterator[tuple[Document, np.ndarray]]:
    """The first `count` documents of a set, in file order."""
    left = count
    for shard in dataset.shards:
        for number in range(len(shard.index)):
            if left <= 0:
                return
            beat()
            block = shard.block(number)
            if len(block.documents) != len(block.lengths):
                raise InputError(f"{shard.path}: block {number}: documents.jsonl is cut short; prepare it again.")
            yield from islice(block.each_document(), left)
            left -= len(block.documents)


def _numbered(names: list[str], text_bytes: np.ndarray, *, least: float) -> tuple[list[str], np.ndarray]:
    """Distinct names and each document's number among them; those with little text, and too many, are `other`."""
    sizes: Counter[str] = Counter()
    for name, size in zip(names, text_bytes.tolist(), strict=True):
        sizes[name] += size
    ranked = sorted(sizes, key=lambda name: (-sizes[name], name))[:MOST_GROUPS]
    kept = [name for name in ranked if sizes[name] >= least * sum(sizes.values())]
    known = kept if len(kept) == len(sizes) else [*(name for name in kept if name != OTHER), OTHER]
    places = {name: place for place, name in enumerate(known)}
    return known, np.array([places.get(name, places.get(OTHER, 0)) for name in names], np.int64)
