"""A folder of token shards, opened for reading rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np

from trainer.data.remote.fetcher import fetcher_of
from trainer.data.remote.fetching import Fetching
from trainer.data.remote.mirror import find_mirror
from trainer.data.remote.remote_shards import RemoteShards, RemoteTokenShards
from trainer.data.text.remote import shown_url
from trainer.data.tokens.block_members import KINDS, LACKING
from trainer.data.tokens.manifest import Manifest, read_manifest
from trainer.data.tokens.order import Rows
from trainer.data.tokens.packing import Packing, RowTable, lay_out
from trainer.data.tokens.shard_index import build_index, unfitting
from trainer.data.tokens.shards import Shards, find_missing
from trainer.data.tokens.stream_rows import first_tokens, last_shards, rows_by_shard
from trainer.data.tokens.token_rows import GatheredRows, TokenRows
from trainer.data.tokens.tokenizer import tokenizer_sha256
from trainer.errors import InputError
from trainer.machine.sealing.plaintext import stored_sha256

BY_DEFAULT = Fetching()


@dataclass(frozen=True)
class Dataset:
    """Token shards under a `name`, read as rows of `sequence_length` + 1 tokens, or of whole documents (`packing`).

    `members` of blocks (block_members.KINDS) are read with them.
    """

    name: str
    manifest: Manifest
    shards: Shards
    sequence_length: int
    packing: Packing | None = None
    members: tuple[str, ...] = ()

    @cached_property
    def rows(self) -> Rows:
        """What the order must know: rows per shard, as the manifest counts them or packing makes them; fingerprint."""
        if self.packing is not None:
            counts = tuple(table.rows for table in self.row_tables)
        else:
            counts = rows_by_shard(self.manifest, self.sequence_length)
        return Rows(self.name, self.manifest.fingerprint, counts)

    @cached_property
    def row_tables(self) -> list[RowTable]:
        """Of each shard, the rows that its documents are packed into. Reads the lengths of all documents."""
        assert self.packing is not None
        return [
            lay_out(shard.lengths(), row_length=self.sequence_length, packing=self.packing) for shard in self.shards
        ]

    @property
    def remote(self) -> RemoteShards | None:
        """The shards, if they are fetched."""
        return self.shards if isinstance(self.shards, RemoteShards) else None

    @property
    def is_uneven(self) -> bool:
        """Whether rows differ in how many targets they have."""
        skips = self.remote is not None and self.remote.skips
        return self.packing is not None or self.manifest.has_targets or skips

    def describe_packing(self) -> str | None:
        """What became of the documents, in words; None where rows are cut from the stream."""
        if self.packing is None:
            return None
        places = sum(int(table.places.sum()) for table in self.row_tables)
        padding = 1 - places / max(1, self.rows.total * self.sequence_length)
        rejected = sum(table.rejected for table in self.row_tables)
        long = f"; {rejected:,} longer than a row are left out (data.long_documents=reject)" if rejected else ""
        shortened = sum(table.shortened for table in self.row_tables)
        long += f"; {shortened:,} are cut to a row (data.long_documents=cut)" if shortened else ""
        return (
            f"{self.name}: {self.manifest.documents:,} whole documents in {self.rows.total:,} rows of "
            f"{self.sequence_length:,}, {padding:.2%} of them padding{long}"
        )

    @cached_property
    def _first_tokens(self) -> np.ndarray:
        return first_tokens(self.manifest, self.sequence_length)

    def starts_of(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The first token, by its place in the shard, of rows of the stream: all (n,)."""
        return self._first_tokens[shards] + rows * self.sequence_length

    def last_shards(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The shards in which rows end: (n,). Those of the stream may go on in the next tars of others."""
        if self.packing is not None:
            return shards
        return last_shards(self.manifest, self.sequence_length, shards, rows)

    @cached_property
    def _first_rows(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.rows.rows)])

    def gather(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Rows of the stream, by shards and rows, both (n,): (n, L + 1) tokens, the shards' dtype, a copy.

        InputError if a token isn't in the vocabulary: the shard was damaged in place.
        """
        length = self.sequence_length
        tokens = np.empty((len(rows), length + 1), self.manifest.dtype)
        for shard in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard)
            tokens[chosen] = self.shards[shard].gather(self.starts_of(shards[chosen], rows[chosen]), length + 1)
        if tokens.size and int(tokens.max()) >= self.manifest.vocab_size:
            self._refuse(tokens, shards, rows)
        return tokens

    def gather_rows(self, shards: np.ndarray, rows: np.ndarray) -> GatheredRows:
        """Rows of shards, both (n,): tokens (n, L + 1) as `gather` has them where every one counts, else TokenRows."""
        if self.packing is not None:
            return self._gather_packed(shards, rows)
        tokens = self.gather(shards, rows)
        if not self.manifest.has_targets and not self.members:
            return tokens
        counted = np.empty((len(rows), self.sequence_length), bool)
        following = np.arange(1, self.sequence_length + 1)
        members = self._empty_members(len(rows))
        for shard in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard)
            places = self.starts_of(shards[chosen], rows[chosen])[:, None] + following
            counted[chosen] = self.shards[shard].take_targets(places)
            for name, array in members.items():
                array[chosen] = self.shards[shard].take_by_token(name, places)
        return replace(TokenRows.of_tokens(tokens, counted), by_token=members)

    def blank_rows(self, rows: int) -> GatheredRows:
        """Rows of the stream in place of some that can't be had: end-of-text tokens, none of which is learnt."""
        tokens = np.full((rows, self.sequence_length + 1), self.manifest.end_of_text, self.dtype)
        if not self.manifest.has_targets and not self.members:
            return tokens  # among others of which all are learnt; the loader leaves out their targets
        blank = TokenRows.of_tokens(tokens, np.zeros((rows, self.sequence_length), bool))
        return replace(blank, by_token=self._empty_members(rows))

    def _empty_members(self, rows: int) -> dict[str, np.ndarray]:
        """Those of `members` that are by token: (rows, L, width)."""
        shape, widths = (rows, self.sequence_length), self.manifest.members
        kinds = [KINDS[name] for name in self.members if KINDS[name].by_token]
        return {kind.name: np.zeros((*shape, widths[kind.name]), kind.of(self.dtype)) for kind in kinds}

    @property
    def dtype(self) -> np.dtype:
        """The tokens'."""
        return np.dtype(self.manifest.dtype)

    def _gather_packed(self, shards: np.ndarray, rows: np.ndarray) -> TokenRows:
        """Rows of whole documents, padded with end-of-text tokens that aren't targets."""
        shape = (len(rows), self.sequence_length)
        inputs, targets = (np.full(shape, self.manifest.end_of_text, self.manifest.dtype) for _ in range(2))
        counted, ids = np.zeros(shape, bool), np.zeros(shape, np.int64)
        members = self._empty_members(len(rows))
        for shard in np.unique(shards).tolist():
            reader, table = self.shards[shard], self.row_tables[shard]
            chosen = np.flatnonzero(shards == shard)
            pieces = [table.pieces_of(int(row)) for row in rows[chosen]]
            sizes = np.array([int(places.sum()) for _, places in pieces])
            places = np.concatenate([_places(starts, lengths) for starts, lengths in pieces])
            filled = np.arange(self.sequence_length) < sizes[:, None]
            for array, values in (
                (inputs, reader.take(places)),
                (targets, reader.take(places + 1)),
                (counted, reader.take_targets(places + 1)),
                (ids, np.concatenate([np.repeat(np.arange(len(lengths)), lengths) for _, lengths in pieces])),
                *((array, reader.take_by_token(name, places + 1)) for name, array in members.items()),
            ):
                part = array[chosen]
                part[filled] = values
                array[chosen] = part
            padding = np.array([len(lengths) for _, lengths in pieces])
            ids[chosen] = np.where(filled, ids[chosen], padding[:, None])
        tokens = [array for name, array in members.items() if KINDS[name].dtype is None]
        for array in (inputs, targets, *(array.reshape(len(rows), -1) for array in tokens)):
            if array.size and int(array.max()) >= self.manifest.vocab_size:
                self._refuse(array, shards, rows)
        return TokenRows(inputs, targets, counted, ids, members, self._members_by_document(shards, rows))

    def _members_by_document(self, shards: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Those of `members` that are by document, for the documents of packed rows: (rows, documents, width)."""
        names = [name for name in self.members if not KINDS[name].by_token]
        if not names:
            return {}
        documents = [self.row_tables[s].documents_of(r) for s, r in zip(shards.tolist(), rows.tolist(), strict=True)]
        most, widths = max(map(len, documents)), self.manifest.members
        found = {name: np.zeros((len(rows), most, widths[name]), KINDS[name].of(self.dtype)) for name in names}
        for number, (shard, numbers) in enumerate(zip(shards.tolist(), documents, strict=True)):
            for name, array in found.items():
                array[number, : len(numbers)] = self.shards[shard].take_by_document(name, numbers)
        return found

    def _refuse(self, tokens: np.ndarray, shards: np.ndarray, rows: np.ndarray) -> NoReturn:
        """Names the first row with a token outside the vocabulary."""
        most = tokens.max(axis=1)
        place = int(np.argmax(most >= self.manifest.vocab_size))
        raise InputError(
            f"{self.manifest.folder / self.manifest.shards[shards[place]].file}: token {int(most[place])} in row "
            f"{int(rows[place])} is outside the vocabulary of {self.manifest.vocab_size}; "
            f'run "banyan data verify {self.manifest.folder}".'
        )

    def gather_in_file_order(self, numbers: np.ndarray) -> np.ndarray:
        """Rows by their number (n,) over all shards in file order, unshuffled, which is how validation reads them.

        (n, L + 1), as `gather`.
        """
        shards = np.searchsorted(self._first_rows, numbers, side="right") - 1
        return self.gather(shards, numbers - self._first_rows[shards])

    def rows_in_file_order(self, numbers: np.ndarray) -> GatheredRows:
        """As `gather_in_file_order`, with what counts of them, as `gather_rows`."""
        shards = np.searchsorted(self._first_rows, numbers, side="right") - 1
        return self.gather_rows(shards, numbers - self._first_rows[shards])

    def row(self, shard: int, row: int) -> np.ndarray:
        """One row of a shard: (L + 1,), as `gather`."""
        return self.gather(np.array([shard]), np.array([row]))[0]


def _places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places [start, start + length) of all pieces, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def open_dataset(
    name: str,
    path: str,
    *,
    key: str,
    split: str,
    sequence_length: int,
    packing: Packing | None = None,
    members: tuple[str, ...] = (),
    fetching: Fetching = BY_DEFAULT,
) -> Dataset:
    """Opens token shards at `path`, or in its folder `split` if `path` is an output of prepare.

    Their files aren't touched yet, but for `packing`, which reads the lengths of documents: each is checked when its
    first row is read, all of them by `find_missing_file`. Those at a URL are fetched when they are needed.
    InputError, naming the configuration `key`, if there are none or they hold no whole row.
    """
    folder, address = _locate(path, key=key, split=split, fetching=fetching)
    manifest = read_manifest(folder)
    check_tokenizer(manifest)
    lacking = [name for name in members if name not in manifest.members]
    if lacking:
        raise InputError(f"{key}={path}: {LACKING[lacking[0]]}")
    dataset = Dataset(name, manifest, _open_shards(manifest, address, fetching), sequence_length, packing, members)
    if dataset.rows.total == 0 and packing is not None:
        pairs = "sides" in manifest.members
        raise InputError(
            f"{key}={path}: no {'pair of answers' if pairs else 'document'} fits into a row of {sequence_length} "
            f"tokens; set a larger data.sequence_length{'' if pairs else ', or data.long_documents=cut'}."
        )
    if dataset.rows.total == 0:
        raise InputError(
            f"{key}={path}: no shard holds a whole row of {sequence_length} tokens (the largest has "
            f"{max((shard.tokens for shard in manifest.shards), default=0)}); give prepare more text, "
            f"or set a smaller data.sequence_length{', or evaluate.every=0' * (split == 'validation')}."
        )
    return dataset


def _open_shards(manifest: Manifest, address: str | None, fetching: Fetching) -> Shards:
    """The shards of a manifest, which are fetched from `address` unless that is None."""
    if manifest.indexed is not None:
        from trainer.data.web.remote_tars import open_tars

        return open_tars(manifest, address, fetching)
    if address is None:
        return Shards(manifest)
    return RemoteTokenShards(manifest, address, fetcher_of(fetching), on_bad_shard=fetching.on_bad_shard)


def find_missing_file(dataset: Dataset, *, part: int, parts: int) -> str | None:
    """Looks for the files of every `parts`-th shard from `part` on, opening none; the first problem, or None.

    None of what is fetched: that is looked for when it is needed.
    """
    if dataset.remote is not None:
        return dataset.remote.find_missing(part, parts)
    folder = dataset.manifest.folder
    found = (find_missing(folder, shard) for shard in dataset.manifest.shards[part::parts])
    return next((problem for problem in found if problem), None)


def find_damage(dataset: Dataset, *, part: int, parts: int) -> str | None:
    """Hashes every `parts`-th shard from `part` on, and compares its index; the first damage in a line, or None.

    Of indexed tars each document is hashed as it is read, and of what is fetched each shard as it comes.
    """
    if dataset.manifest.indexed is not None or dataset.remote is not None:
        return None
    folder = dataset.manifest.folder
    for number in range(part, len(dataset.shards), parts):
        shard = dataset.manifest.shards[number]
        path = folder / shard.file
        if stored_sha256(path) != shard.sha256:
            return (
                f"{path}: its content isn't what the manifest says (sha256 differs); fetch or prepare it again, "
                f'then "banyan data verify {folder}".'
            )
        try:
            index = dataset.shards[number].index
        except InputError as error:
            return str(error)
        if not np.array_equal(build_index(path, dataset.manifest.dtype), index):
            return unfitting(folder, shard)
    return None


def find_folder(path: str, *, key: str, split: str, fetching: Fetching = BY_DEFAULT) -> Path:
    """The folder with the manifest: `path` itself or its folder `split`; of what is fetched, its copy in the cache."""
    return _locate(path, key=key, split=split, fetching=fetching)[0]


def _locate(path: str, *, key: str, split: str, fetching: Fetching) -> tuple[Path, str | None]:
    """The folder with the manifest, and the address of the shards if they are fetched."""
    if fetching.fetches(path):
        for address in (path, f"{path.rstrip('/')}/{split}"):
            mirror = find_mirror(address, fetching)
            if mirror is not None:
                return mirror.folder, mirror.address
        raise InputError(
            f"{key}={shown_url(path)}: no manifest.json there, nor in {split}/; copy an output of prepare there, or "
            "mend the path."
        )
    for folder in (Path(path), Path(path) / split):
        if (folder / "manifest.json").is_file():
            return folder, None
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
