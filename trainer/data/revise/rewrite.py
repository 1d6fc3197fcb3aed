"""The third stage: a work item's stored documents → the same once more, as they are to be.

It leaves in the folder of the second store what collect.py leaves in that of the first, and

    revised-000012.rows       TAKEN of each document of which paragraphs were taken out
    revised-000012.jsonl.zst  what was taken out, as cleaning keeps what it rejects
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import zstandard

from trainer.config.paragraphs import Paragraphs
from trainer.data.revise.paragraphs import Paragraph, paragraphs_of, without
from trainer.data.revise.repeated import FindRepeated
from trainer.data.revise.survey import STAYS, stays_path
from trainer.data.text.document_store import ROW, DocumentStore, DocumentWriter, read_pieces, read_texts
from trainer.data.text.shuffle import Stored
from trainer.data.text.workers import Work
from trainer.machine.durable import replacing, write_bytes, write_json
from trainer.machine.json_file import Count, Malformed, from_json, read_json
from trainer.machine.sealing.plaintext import read_plaintext

DOCUMENT_RULE = "repeated_paragraphs.document"  # nothing of its own was left
PARAGRAPH_RULE = "repeated_paragraphs.paragraph"
TAKEN = np.dtype(
    [
        ("source", "<i8"),
        ("record", "<i8"),
        ("high", "<u8"),  # of the xxh3-128 of the text as it was stored
        ("low", "<u8"),
        ("paragraphs", "<i8"),  # that were compared
        ("taken", "<i8"),
        ("bytes", "<i8"),  # that were taken out
        ("first_source", "<i8"),  # of the document that has the first of them, too
        ("first_record", "<i8"),
        ("stays", "u1"),
    ]
)


@dataclass(frozen=True)
class Rewritten:
    """What became of a work item's documents; `first_whole` is (source, record) of the first that was rejected."""

    documents: Count
    bytes: Count
    copies: Count  # added
    shortened: Count
    paragraphs: Count
    whole: Count
    first_whole: tuple[Count, ...] | None


@dataclass
class _Taken:
    """What was taken out of the documents of a work item."""

    share: int  # bytes of it that are kept for each rule
    rows: list[tuple[int, ...]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)

    def keep(self, rule: str, row: np.void, count: int, size: int, text: str) -> None:
        """Keeps what was taken out of a document, as long as there is room for it; the first is cut to fit."""
        used, content = self.kept[rule], text.encode("utf-8")
        if not self.share or (used and used + len(content) > self.share):
            return
        cut = len(content) > self.share
        entry = {
            "rule": rule,
            "value": size / int(row["length"]),
            "limit": 0.0,
            "detail": f"{count} paragraph{'s' * (count > 1)} that came before",
            "source": int(row["source"]),
            "record": int(row["record"]),
            **({"cut_from_bytes": len(content)} if cut else {}),
            "text": content[: self.share].decode("utf-8", "ignore"),
        }
        self.kept[rule] += min(len(content), self.share)
        self.lines.append(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")


@dataclass(frozen=True)
class RewriteItem(Work[int, Rewritten]):
    """Stores a work item's documents in `target`, which has the same buckets."""

    stored: Stored
    target: DocumentStore
    paragraphs: Paragraphs | None
    repeated: FindRepeated | None
    share: int

    def note(self, item: int) -> Path:
        """What became of them."""
        return self.target.folder / f"revised-{item:06d}.json"

    def __call__(self, item: int) -> Rewritten:
        """Reads the item's documents in the order of the sources."""
        note = self.note(item)
        try:
            return _checked(from_json(Rewritten, read_json(note)))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise self.target.unreadable(note, error) from error
        rewritten = self._rewrite(item)
        write_json(note, asdict(rewritten))
        return rewritten

    def _rewrite(self, item: int) -> Rewritten:
        rows, copies = self._rows(item)
        target, taken, counts = self.target, _Taken(self.share), Counter[str]()
        first_whole = None
        repeated = _by_document(self.repeated, rows)
        with ExitStack() as open_files:
            paths = [target.documents_path(item, file) for file in range(target.buckets.files)]
            files = [open_files.enter_context(replacing(path)) for path in paths]
            text_file = None if target.shuffled else open_files.enter_context(replacing(target.text_path(item)))
            writer = DocumentWriter(target, files, text_file)
            for row, count, text in zip(rows, copies.tolist(), self._texts(item, rows), strict=True):
                content = text.pop()
                source, record = int(row["source"]), int(row["record"])
                again = repeated.get((source, record))
                left = content if again is None else self._without(content, row, again, taken)
                if left is None:
                    counts["whole"] += 1
                    first_whole = first_whole or (source, record)
                    continue
                counts["paragraphs"] += 0 if again is None else len(again)
                counts["shortened"] += again is not None
                counts["copies"] += count - 1
                for copy in range(count):
                    writer.add(source, record, left, copy)
            writer.close()
        write_bytes(taken_path(target.folder, item), np.array(taken.rows, TAKEN).tobytes())
        write_bytes(kept_path(target.folder, item), zstandard.ZstdCompressor(3).compress(b"".join(taken.lines)))
        return Rewritten(
            documents=writer.documents,
            bytes=writer.text_bytes,
            copies=counts["copies"],
            shortened=counts["shortened"],
            paragraphs=counts["paragraphs"],
            whole=counts["whole"],
            first_whole=first_whole,
        )

    def _rows(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """The item's documents that stay, in the order of the sources: ROW, and copies of each."""
        store = self.stored.store
        found, copies = [np.empty(0, ROW)], [np.empty(0, np.int64)]
        for bucket in range(store.buckets.count):
            stays = self._stays(bucket, item)
            for piece in read_pieces(store, item, bucket):
                chosen = np.isin(piece["offset"], stays["offset"])
                found.append(piece[chosen])
                places = np.searchsorted(stays["offset"], piece["offset"][chosen])
                copies.append(stays["copies"][places])
        rows, joined = np.concatenate(found), np.concatenate(copies)
        rows["record"] += self.stored.records_before[item]
        order = np.lexsort((rows["record"], rows["source"]))
        return rows[order], joined[order]

    def _stays(self, bucket: int, item: int) -> np.ndarray:
        path = stays_path(self.stored.store.folder, bucket)
        try:
            table = np.frombuffer(read_plaintext(path), STAYS)
        except (OSError, ValueError) as error:
            raise self.stored.store.unreadable(path, getattr(error, "strerror", None) or error) from error
        first, last = np.searchsorted(table["item"], [item, item + 1])
        return table[first:last]

    def _texts(self, item: int, rows: np.ndarray) -> Iterator[list[bytes]]:
        store = self.stored.store
        if not store.shuffled:
            return read_texts(rows, np.full(len(rows), item), store.text_path, store)
        buckets = store.buckets.of(rows["place"])
        files = buckets * store.buckets.files // store.buckets.count
        return read_texts(rows, files, lambda file: store.documents_path(item, file), store)

    def _without(self, content: bytes, row: np.void, again: np.ndarray, taken: _Taken) -> bytes | None:
        """A text without its repeated paragraphs; None where none that is compared is left."""
        assert self.paragraphs is not None
        text = content.decode("utf-8")
        paragraphs = paragraphs_of(text, self.paragraphs)
        numbers = set(again["number"].tolist())
        compared = sum(paragraph.is_compared for paragraph in paragraphs)
        whole = compared == len(numbers)
        left = b"" if whole else without(text, paragraphs, numbers).encode("utf-8")
        size = len(content) - len(left)
        first = again[0]
        place = (int(row["source"]), int(row["record"]), int(row["high"]), int(row["low"]))
        where = (int(first["first_source"]), int(first["first_record"]))
        taken.rows.append((*place, compared, len(numbers), size, *where, not whole))
        out = text if whole else "\n\n".join(_text_of(text, paragraphs[number]) for number in sorted(numbers))
        taken.keep(DOCUMENT_RULE if whole else PARAGRAPH_RULE, row, len(numbers), size, out)
        return None if whole else left


def _text_of(text: str, paragraph: Paragraph) -> str:
    return text[paragraph.start : paragraph.stop]


def _by_document(find: FindRepeated | None, rows: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """The repeated paragraphs of documents in source order, by (source, record)."""
    if find is None or not len(rows):
        return {}
    first, last = rows[0], rows[-1]
    ends = [(int(row["source"]), int(row["record"])) for row in (first, last)]
    table = find.between(*ends)
    others = (np.diff(table["source"]) != 0) | (np.diff(table["record"]) != 0)
    groups = np.split(table, np.flatnonzero(others) + 1) if len(table) else []
    return {(int(group["source"][0]), int(group["record"][0])): group for group in groups}


def _checked(rewritten: Rewritten) -> Rewritten:
    if (rewritten.first_whole is None) != (rewritten.whole == 0):
        raise Malformed("its counts don't fit each other")
    return rewritten


def taken_path(folder: Path, item: int) -> Path:
    """Documents of which paragraphs were taken out: TAKEN, in source order."""
    return folder / f"revised-{item:06d}.rows"


def kept_path(folder: Path, item: int) -> Path:
    """What was taken out."""
    return folder / f"revised-{item:06d}.jsonl.zst"
