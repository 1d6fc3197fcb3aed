"""The documents behind a step, the most surprising first: what a spike in the loss was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.data.tokens.tokenizer import Tokenizer
from trainer.machine.terminal import one_line
from trainer.report.run_page.record import SpikeDocument
from trainer.run.directory import load_run_tokenizer
from trainer.run.provenance import RunOrder, open_order, row_stretches

TOP = 5
MOST_ROWS = 512  # of a step, and of those around it, that are looked at
SNIPPET_TOKENS, SNIPPET_CHARACTERS = 60, 200


class StepDocuments:
    """Finds them for one run, whose data must be here. InputError or ConfigError where they aren't."""

    def __init__(self, run_dir: Path) -> None:
        self._order: RunOrder = open_order(run_dir)
        self._tokenizer: Tokenizer = load_run_tokenizer(run_dir)

    def top(self, step: int) -> tuple[SpikeDocument, ...]:
        """The documents of a step whose tokens are the least likely by their counts in other steps around it."""
        start, stop = self._order.history.positions_of(step)
        known = self._surprise_around(start, stop)
        found: dict[tuple[str, int], list[np.ndarray]] = {}
        for place in self._order.order.places(start, min(stop, start + MOST_ROWS)):
            dataset = self._order.datasets[place.fingerprint]
            reader = dataset.shards[place.shard]
            for first, last in row_stretches(dataset, place.shard, place.row):
                for document in reader.documents(first, last):
                    tokens = reader.read(max(first, document.start), min(last, document.stop))
                    key = dataset.manifest.source_name(document.source), document.record
                    found.setdefault(key, []).append(np.asarray(tokens))
        documents = []
        for (source, record), parts in found.items():
            tokens = np.concatenate(parts)
            if len(tokens):
                documents.append((float(known[tokens].mean()), source, record, tokens))
        documents.sort(key=lambda each: -each[0])
        return tuple(
            SpikeDocument(one_line(source), record, len(tokens), surprise, self._snippet(tokens))
            for surprise, source, record, tokens in documents[:TOP]
        )

    def _surprise_around(self, start: int, stop: int) -> np.ndarray:
        """-log p of each token id, with one added to its count in the rows before and after a step."""
        before = range(max(0, start - MOST_ROWS // 2), start)
        after = range(stop, stop + MOST_ROWS - len(before))
        size = max(dataset.manifest.vocab_size for dataset in self._order.datasets.values())
        counts = np.ones(size)
        for rows in (before, after):
            for place in self._order.order.places(rows.start, rows.stop) if len(rows) else ():
                dataset = self._order.datasets[place.fingerprint]
                for first, last in row_stretches(dataset, place.shard, place.row):
                    tokens = np.asarray(dataset.shards[place.shard].read(first, last))
                    counts += np.bincount(tokens, minlength=size)[:size]
        return np.asarray(-np.log(counts / counts.sum()))

    def _snippet(self, tokens: np.ndarray) -> str:
        text = self._tokenizer.decode(tokens[:SNIPPET_TOKENS].tolist())
        return one_line(" ".join(text.split()))[:SNIPPET_CHARACTERS]
