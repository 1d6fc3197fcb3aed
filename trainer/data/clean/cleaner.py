"""All stages on one document after the other, and a record of what became of each: used for a work item of prepare.

    with Cleaner(clean, folder, number, share) as cleaner:
        kept = cleaner.clean(source, record, text, url)      # bytes, or why it is rejected

It leaves `cleaned-000012.rows` (OUTCOME of each document, in order), `cleaned-000012.jsonl.zst` (rejected documents)
and with clean.signals `cleaned-000012.signals` (float64, a row for each document).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash
import zstandard

from trainer.config.clean import Clean
from trainer.data.clean.document import CleanedDocument, Counted, Verdict
from trainer.data.clean.record import LEVEL, OUTCOME, outcomes_path, rejected_path, signals_path
from trainer.data.clean.stages import build_stages
from trainer.data.text.filters import EMPTY
from trainer.machine.durable import write_bytes


class Cleaner:
    """The stages, and what they did to the documents of one work item."""

    def __init__(self, clean: Clean, folder: Path, item: int, share: int) -> None:
        """`share` is how many bytes of rejected text are kept for each rule."""
        self.changes: Counter[str] = Counter()
        self._clean = clean
        self._stages = build_stages(clean)
        self._folder, self._item, self._share = folder, item, share
        self._outcomes: list[tuple[int | bytes | float, ...]] = []
        self._signals: list[dict[str, float]] = []
        self._kept: Counter[str] = Counter()  # bytes of rejected text by rule
        self._rejected: list[bytes] = []

    def clean(self, source: int, record: int, text: bytes, url: str = "") -> bytes | Verdict:
        """The text as it is left, or why it is rejected."""
        counted = Counted(text.decode("utf-8"), self._clean.words)
        document = CleanedDocument(counted, every_signal=self._clean.signals, url=url)
        verdict = self._run(document)
        left = text
        if verdict is None and document.changes:
            left = document.text.encode("utf-8")
            if not left.strip():
                verdict = Verdict(EMPTY, 0, 1, "nothing is left after cleaning")
            else:
                self.changes.update(document.changes)
        before = xxhash.xxh3_128_intdigest(text)
        after = before if left is text else xxhash.xxh3_128_intdigest(left)
        rule = b"" if verdict is None else verdict.rule.encode()
        value, limit = (0.0, 0.0) if verdict is None else (verdict.value, verdict.limit)
        self._outcomes.append((source, record, *_words(before), *_words(after), rule, value, limit))
        if self._clean.signals:
            self._signals.append(document.signals)
        if verdict is not None:
            self._keep_rejected(source, record, document, verdict)
            return verdict
        return left

    def _run(self, document: CleanedDocument) -> Verdict | None:
        found = None
        for stage in self._stages:
            verdict = stage(document)
            found = found or verdict
            if found is not None and not self._clean.signals:
                break
        return found

    def _keep_rejected(self, source: int, record: int, document: CleanedDocument, verdict: Verdict) -> None:
        """Notes a rejected document, as long as there is room for its rule; the first of a rule is cut to fit."""
        used, text = self._kept[verdict.rule], document.text
        size = len(text.encode("utf-8"))
        if (used and used + size > self._share) or not self._share:
            return
        cut = size > self._share
        if cut:
            text = text.encode("utf-8")[: self._share].decode("utf-8", "ignore")
        self._kept[verdict.rule] += min(size, self._share)
        entry = {
            "rule": verdict.rule,
            "value": verdict.value,
            "limit": verdict.limit,
            **({"detail": verdict.detail} if verdict.detail else {}),
            "source": source,
            "record": record,
            **({"url": document.url} if document.url else {}),
            **({"cut_from_bytes": size} if cut else {}),
            "text": text,
        }
        self._rejected.append(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")

    def close(self) -> None:
        """Writes what became of the documents."""
        outcomes = np.array(self._outcomes, OUTCOME)
        write_bytes(outcomes_path(self._folder, self._item), outcomes.tobytes())
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(b"".join(self._rejected))
        write_bytes(rejected_path(self._folder, self._item), packed)
        if self._clean.signals:
            write_bytes(signals_path(self._folder, self._item), _signal_table(self._signals))

    def __enter__(self) -> Cleaner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()


def _words(digest: int) -> tuple[int, int]:
    return digest >> 64, digest & (2**64 - 1)


def _signal_table(signals: list[dict[str, float]]) -> bytes:
    """A line of names as JSON, then float64 (documents, names); NaN where a document was never asked."""
    names = sorted({name for each in signals for name in each})
    table = np.array([[each.get(name, np.nan) for name in names] for each in signals], "<f8").reshape(-1, len(names))
    return json.dumps(names).encode() + b"\n" + table.tobytes()
