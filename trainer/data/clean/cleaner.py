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
from trainer.data.clean.record import (
    CHARACTERS,
    LEFT,
    LEVEL,
    OUTCOME,
    outcomes_path,
    packed_table,
    rejected_path,
    signals_path,
)
from trainer.data.clean.reuse import CountedBefore
from trainer.data.clean.stages import build_stages
from trainer.data.text.filters import EMPTY
from trainer.machine.durable import write_bytes


class Cleaner:
    """The stages, and what they did to the documents of one work item."""

    def __init__(self, clean: Clean, folder: Path, item: int, share: int) -> None:
        """`share` is how many bytes of rejected text are kept for each rule."""
        self.changes: Counter[str] = Counter()
        self._clean = clean
        self._before = CountedBefore(clean, item) if clean.signals_from is not None else None
        self._stages = build_stages(clean, changing=self._before is not None)
        self._folder, self._item, self._share = folder, item, share
        self._outcomes: list[tuple[int | bytes | float, ...]] = []
        self._signals: list[dict[str, float]] = []
        self._kept: Counter[str] = Counter()  # bytes of rejected text by rule
        self._rejected: list[bytes] = []

    def clean(self, source: int, record: int, text: bytes, url: str = "") -> bytes | Verdict:
        """The text as it is left, or why it is rejected."""
        counted = Counted(text.decode("utf-8"), self._clean.words)
        document = CleanedDocument(counted, every_signal=self._clean.signals and self._before is None, url=url)
        before = xxhash.xxh3_128_intdigest(text)
        verdict = self._before.verdict(source, before) if self._before else None
        verdict, judged = (verdict, counted.text) if verdict else self._run(document)
        left = text
        if verdict is None and document.changes:
            left = document.text.encode("utf-8")
            if not document.text.strip():
                verdict, judged = Verdict(EMPTY, 0, 1, "nothing is left after cleaning"), ""
            else:
                self.changes.update(document.changes)
        after = before if left is text else xxhash.xxh3_128_intdigest(left)
        rule = b"" if verdict is None else verdict.rule.encode()
        value, limit = (0.0, 0.0) if verdict is None else (verdict.value, verdict.limit)
        self._outcomes.append((source, record, *_words(before), *_words(after), rule, value, limit))
        if document.every_signal:
            document.signals |= {CHARACTERS: len(counted.text), LEFT: len(document.text.strip())}
            self._signals.append(document.signals)
        if verdict is not None:
            self._keep_rejected(source, record, judged, url, verdict)
            return verdict
        return left

    def _run(self, document: CleanedDocument) -> tuple[Verdict | None, str]:
        """The first verdict, and the text that it is of."""
        found, judged = None, ""
        for stage in self._stages:
            before = document.text
            verdict = stage(document)
            if verdict is not None and found is None:
                found, judged = verdict, before
            if found is not None and not document.every_signal:
                break
        return found, judged

    def _keep_rejected(self, source: int, record: int, text: str, url: str, verdict: Verdict) -> None:
        """Notes a rejected document, as long as there is room for its rule; the first of a rule is cut to fit."""
        used = self._kept[verdict.rule]
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
            **({"url": url} if url else {}),
            **({"cut_from_bytes": size} if cut else {}),
            "text": text,
        }
        self._rejected.append(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")

    def close(self) -> None:
        """Writes what became of the documents."""
        if self._before:
            self._before.end()
        outcomes = np.array(self._outcomes, OUTCOME)
        write_bytes(outcomes_path(self._folder, self._item), outcomes.tobytes())
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(b"".join(self._rejected))
        write_bytes(rejected_path(self._folder, self._item), packed)
        if self._clean.signals:
            before = self._before
            table = packed_table(before.names, before.signals) if before else _signal_table(self._signals)
            write_bytes(signals_path(self._folder, self._item), table)

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
    """The signals of documents; NaN where one was never asked."""
    names = sorted({name for each in signals for name in each})
    return packed_table(names, np.array([[each.get(name, np.nan) for name in names] for each in signals], "<f8"))
