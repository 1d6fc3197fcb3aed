"""Runs that others published, as rows of facts, and what `banyan plan` predicts for the like."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.config import PlanSettings
from trainer.config.plain_values import with_values
from trainer.config.verbs import Plan
from trainer.planning.calibration import Calibration
from trainer.planning.cluster import Cluster
from trainer.planning.communication import Transfer
from trainer.planning.devices import DEVICES
from trainer.planning.layout import Layout, layout_of
from trainer.planning.time import time_of
from trainer.planning.work import StepWork, work_of

FOLDER = Path(__file__).parent / "published"
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")


@dataclass(frozen=True)
class PublishedRun:
    """A row of a table, in the terms of its file: facts by column, those of the table and the whole file among them."""

    source: str
    facts: dict[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        """What tells it from every other row."""
        facts = self.facts
        words = [f"{facts['model']} × {facts['sequence_length']:,}", f"{facts['devices']} {facts['device']}"]
        words += [f"T{facts['tensor']}"] if facts.get("tensor", 1) > 1 else []
        words += [f"{facts['micro_batch']} × {facts['micro_steps']}", str(facts["checkpointing"])]
        words += ["compiled"] if facts["compile"] else []
        return f"{self.source}: {', '.join(words)}, {self.speed:,.0f}"

    @property
    def speed(self) -> float:
        """Tokens per second and device, as published."""
        if "tokens_per_second_per_device" in self.facts:
            return float(self.facts["tokens_per_second_per_device"])
        return float(self.facts["tokens_per_second"]) / self.facts["devices"]

    @functools.cached_property
    def layout(self) -> Layout:
        """The run as Banyan would do it."""
        facts, shape = self.facts, self.facts["models"][self.facts["model"]]
        vocabulary = shape[5] if len(shape) > 5 else facts["vocab_size"]
        data_ranks = facts["devices"] // facts.get("tensor", 1)
        tokens = facts["micro_batch"] * facts["sequence_length"]
        values = {f"model.{key}": value for key, value in zip(SHAPE, shape, strict=False)} | {
            "model.vocab_size": vocabulary,
            "model.tie_word_embeddings": facts["tied"],
            "model.loss_chunk": tokens,  # none of them makes logits in chunks
            "data.sequence_length": facts["sequence_length"],
            "train.micro_batch_size": facts["micro_batch"],
            "train.batch_size": facts["micro_batch"] * facts["micro_steps"] * data_ranks,
            "train.precision": facts["precision"],
            "train.compile": facts["compile"],
            "train.activation_checkpointing": facts["checkpointing"],
            "parallel.zero_stage": facts["stage"] if data_ranks > 1 else 0,
            "parallel.tensor": facts.get("tensor", 1),
        }
        return layout_of(with_values(Plan(), values), facts["devices"], cuda=True)

    @functools.cached_property
    def cluster(self) -> Cluster:
        """The devices that it ran on."""
        device = DEVICES[self.facts["device"]]
        changed = {key: self.facts[key] for key in ("bandwidth", "flops") if key in self.facts}
        return Cluster(self.facts["devices"], self.facts["per_node"], dataclasses.replace(device, **changed))

    @functools.cached_property
    def work(self) -> StepWork:
        """What a rank of it had to do: Banyan's work, but for what these libraries keep and exchange otherwise."""
        work = work_of(self.layout)
        work = dataclasses.replace(work, kept_bytes=work.kept_bytes * self.facts.get("kept", 1.0))
        if self.facts.get("reduce") == "fp32":
            work = dataclasses.replace(work, hidden=tuple(map(_in_fp32, work.hidden)))
        if self.facts.get("tensor", 1) > 1:
            others = tuple(one for one in work.exposed if one.group != "tensor")
            work = dataclasses.replace(work, exposed=(*others, self._tensor()))
        return work

    def _tensor(self) -> Transfer:
        """Megatron's way: two sums of a block's forward, two of its backward, and those of what is computed again."""
        each = 6 if self.facts["checkpointing"] == "full" else 4
        layers = self.layout.config.model.num_hidden_layers
        return Transfer("all_reduce", "tensor", self.layout.activation, self.layout.micro_steps * (each * layers + 2))

    def predict(self, shares: Calibration) -> float:
        """Seconds of a step."""
        time = time_of(self.work, self.layout, self.cluster, shares, PlanSettings())
        assert time is not None, "every device of the table has a peak"
        return time.total

    @property
    def measured(self) -> float:
        """Seconds of a step, as published."""
        config = self.layout.config
        return config.train.batch_size * config.data.sequence_length / (self.speed * self.facts["devices"])

    def error(self, shares: Calibration) -> float:
        """Of the predicted time, relative to the measured."""
        return self.predict(shares) / self.measured - 1


def _in_fp32(transfer: Transfer) -> Transfer:
    doubled = transfer.op == "reduce_scatter_tensor"
    return dataclasses.replace(transfer, bytes=transfer.bytes * 2) if doubled else transfer


def halves(runs: Sequence[PublishedRun]) -> tuple[list[PublishedRun], list[PublishedRun]]:
    """Rows that constants may be fitted to, and rows that test them: every other of a source, in a hash's order."""
    fitted: list[PublishedRun] = []
    held_out: list[PublishedRun] = []
    for source in sorted({run.source for run in runs}):
        rows = sorted((run for run in runs if run.source == source), key=lambda run: _hash(run.name))
        fitted += rows[::2]
        held_out += rows[1::2]
    return fitted, held_out


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def published_runs() -> list[PublishedRun]:
    """All rows of all files."""
    runs = []
    for path in sorted(FOLDER.glob("*.yaml")):
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        for table in told["tables"]:
            common = told["system"] | {"models": told["models"]} | {k: v for k, v in table.items() if k != "rows"}
            for row in table["rows"]:
                facts = common | dict(zip(told["columns"], row, strict=True))
                runs.append(PublishedRun(path.stem, facts))
    return runs
