"""The loss on a validation set: the same rows and the same sum at any world size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed

from trainer.config import Evaluate
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.loader import validation_batches
from trainer.data.tokens.manifest import has_text_alone
from trainer.engine.sequence import own_part
from trainer.evaluate.document_losses import DocumentLosses, open_documents_of
from trainer.evaluate.groups import GroupScore
from trainer.evaluate.label_table import LabelTable, PredictsLabels
from trainer.objective.build import Objective
from trainer.objective.losses import by_part
from trainer.ranks.mesh import Mesh
from trainer.track.metrics import bits_per_byte, perplexity

TOKENS = "tokens"  # the unit of objectives whose losses are nats of text


@dataclass(frozen=True)
class Score:
    """`loss` in nats per token over `tokens` targets; no bits per byte where not all tokens of the text are targets.

    Of an objective that counts something else, `tokens` of its `unit`, and a loss in its `scale`; `measures` are the
    means of its measures. `groups` are figures of documents by source and by language.
    """

    loss: float
    bits_per_byte: float | None
    tokens: int
    unit: str = TOKENS
    measures: dict[str, float] = field(default_factory=dict)
    scale: str = "nats per token"
    groups: dict[str, dict[str, GroupScore]] = field(default_factory=dict)

    def group_measures(self) -> dict[str, float]:
        """Of each group its bits per byte and tokens per byte, by KIND/NAME/MEASURE; none where bytes aren't known."""
        return {
            f"{kind}/{name}/{measure}": getattr(group, measure)
            for kind, groups in self.groups.items()
            for name, group in groups.items()
            if group.text_bytes
            for measure in ("bits_per_byte", "tokens_per_byte")
        }

    def in_words(self) -> str:
        """For the console, and summaries."""
        if self.unit != TOKENS:
            shown = ((name, value) for name, value in self.measures.items() if _is_shown(name))
            measures = "".join(f", {name} {value:.4f}" for name, value in shown)
            return f"loss {self.loss:.4f}{measures} ({self.tokens:,} {self.unit})"
        bits = "" if self.bits_per_byte is None else f"{self.bits_per_byte:.4f} bits per byte, "
        return f"{self.loss:.4f} nats per token, {bits}perplexity {perplexity(self.loss):.2f} ({self.tokens:,} tokens)"


def _is_shown(measure: str) -> bool:
    """Whether a measure is said in words; all are in metrics.jsonl, and in what evaluate prints."""
    if "/" in measure:
        return measure in ("rewards/margins", "rewards/accuracies")
    return not measure.startswith(("precision_", "recall_"))


def scored_rows(dataset: Dataset, settings: Evaluate) -> int:
    """How many rows of a set are scored: evaluate.rows of them, from its start, or all."""
    return min(settings.rows or dataset.rows.total, dataset.rows.total)


def cut_in_words(dataset: Dataset, settings: Evaluate) -> str | None:
    """Says that evaluate.rows leaves out rows of a set; None where all are scored."""
    rows = scored_rows(dataset, settings)
    if rows == dataset.rows.total:
        return None
    return f"{dataset.name}: the first {rows:,} of {dataset.rows.total:,} rows are scored (evaluate.rows=0 takes all)"


@torch.no_grad()
def score(
    objective: Objective,
    model: Callable[..., Any],
    dataset: Dataset,
    settings: Evaluate,
    mesh: Mesh,
    *,
    beat: Callable[[], None] = lambda: None,
    documents: DocumentLosses | None = None,
) -> Score:
    """Scores the first `settings.rows` rows (0: all) of a validation set; every rank calls it and gets the result.

    Row losses are laid into one vector and summed in row order in double precision, so the world size doesn't show.
    Bits per byte take the dataset's own ratio of tokens to bytes. `beat` is called before each batch. With `documents`,
    the losses of each are told as well.
    """
    rows = scored_rows(dataset, settings)
    losses, units = torch.zeros(2, rows, dtype=torch.float64)
    measures: dict[str, torch.Tensor] = {}
    labels = LabelTable(rows)
    batches = validation_batches(
        dataset,
        rows=rows,
        micro_batch_size=settings.micro_batch_size,
        rank=mesh.data_rank,
        world_size=mesh.data_size,
        to_batch=objective.to_batch,
    )
    for first, batch in batches:
        beat()
        own = own_part(batch, mesh).to(mesh.device)
        with documents.listening(model) if documents else contextlib.nullcontext():
            found = objective.losses(model, own)
        counted_rows = max(0, min(len(found.rows), rows - first))
        if documents:
            documents.add(first, counted_rows, own.targets.shape[1], mesh)
        losses[first : first + counted_rows] = found.rows.double().cpu()[:counted_rows]
        units[first : first + counted_rows] = objective.units(batch)[:counted_rows]
        if found.predictions is not None:
            labels.add(first, batch.targets[:counted_rows], found.predictions.cpu()[:counted_rows])
        for name, values in found.measures.items():
            sums = measures.setdefault(name, torch.zeros(rows, dtype=torch.float64))
            sums[first : first + counted_rows] = values.double().cpu()[:counted_rows]
    if mesh.tensor_rank > 0:
        for values in (losses, *measures.values()):
            values.zero_()  # the same as their neighbour's: counted once
    if mesh.tensor_rank > 0 or mesh.sequence_rank > 0:
        units.zero_()
        labels.forget()
    if mesh.world_size > 1:
        for values in (losses, units, *measures.values()):
            torch.distributed.all_reduce(values, group=mesh.control)
    tokens = int(units.sum().item())
    loss = losses.sum().item() / max(1, tokens)
    means = by_part({name: values.sum().item() / max(1, tokens) for name, values in measures.items()})
    if isinstance(objective, PredictsLabels):
        means |= labels.figures(objective, mesh)
    manifest = dataset.manifest
    groups = documents.by_group(mesh) if documents else {}
    if not has_text_alone(manifest) or objective.unit != TOKENS:
        return Score(loss, None, tokens, objective.unit, means, objective.scale)
    bpb = None
    if manifest.knows_bytes:
        bpb = bits_per_byte(nats_per_token=loss, tokens=manifest.tokens, text_bytes=manifest.text_bytes)
    return Score(loss, bpb, tokens, objective.unit, means, objective.scale, groups)


@dataclass
class LossEvaluator:
    """Scores every validation set in the loop, with the weights of the moment; `latest` are the last scores."""

    objective: Objective
    engine: Any
    sets: list[Dataset]
    settings: Evaluate
    mesh: Mesh
    beat: Callable[[], None]
    say: Callable[[str], None] = print
    latest: list[tuple[Dataset, Score]] = field(default_factory=list)
    _documents: dict[str, DocumentLosses | None] = field(default_factory=dict)

    @property
    def every(self) -> int:
        """Steps between evaluations."""
        return self.settings.every

    def run(self) -> dict[str, float]:
        """Loss and bits per byte of each set. Every rank calls it and gets the same."""
        was_training = self.engine.module.training
        self.engine.eval()
        self.latest = [(dataset, self._score(dataset)) for dataset in self.sets]
        self.engine.train(was_training)
        metrics = {}
        for dataset, result in self.latest:
            metrics[f"eval/{dataset.name}/loss"] = result.loss
            if result.bits_per_byte is not None:
                metrics[f"eval/{dataset.name}/bits_per_byte"] = result.bits_per_byte
            metrics |= {f"eval/{dataset.name}/{name}": value for name, value in result.measures.items()}
            metrics |= {f"eval/{dataset.name}/{name}": value for name, value in result.group_measures().items()}
        return metrics

    def _score(self, dataset: Dataset) -> Score:
        if dataset.name not in self._documents:
            self._documents[dataset.name] = open_documents_of(
                self.objective,
                dataset,
                self.settings,
                scored_rows(dataset, self.settings),
                self.mesh,
                say=self.say,
                beat=self.beat,
            )
        documents = self._documents[dataset.name]
        module = self.engine.module
        return score(self.objective, module, dataset, self.settings, self.mesh, beat=self.beat, documents=documents)
