"""health.layers_every: RUN/layers.jsonl, statistics of each layer every so many steps, the same at any ZeRO stage.

A line is an object; where a figure can't be had it is null, or its key isn't there:

    {"step": 100, "tokens": 409600, "time": 1760000000.0,
     "layers": ["embed_tokens", "0", "1", "norm", "lm_head"],   parameters by layer: blocks have numbers
     "weight_norm": [...], "grad_norm": [...], "update_norm": [...],   by `layers`: Euclidean norms over a layer's
         parameters, after the step; of the mean gradient before clipping; of what the step changed
     "blocks": ["0", "1"],
     "activation_rms": [...], "zero_share": [...], "attention_entropy": [...],   by `blocks`, of the first row of the
         step's batch under the weights after the step: activation_stats.py says of what; entropy in nats
     "expert_load": [[...], ...],   by `blocks`, share of the token copies that each expert got
     "logit_max": 11.5}

Activations are looked at in our own decoder alone, without train.compile, whose blocks can't be looked into, and
without parallel.sequence. With parallel.tensor they are of rank 0's slices: heads and inner activations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from trainer.checkpoint.fragment import WEIGHT
from trainer.data.tokens.loader import Batch
from trainer.engine.activation_stats import measure_activations
from trainer.engine.assemble import Assembly
from trainer.engine.deepspeed import fragments
from trainer.engine.deepspeed.gradients import total_norm
from trainer.model.decoder import Transformer
from trainer.ranks.mesh import Mesh
from trainer.track.sinks.journal import LAYERS, Journal, metric_row


class LayerStats:
    """One rank's part in it. The loop calls `before_step` when gradients are there, and `after_step`."""

    def __init__(self, assembly: Assembly, mesh: Mesh, *, every: int, run_dir: Path, compiled: bool) -> None:
        self._assembly, self._mesh, self._every = assembly, mesh, every
        self._journal = Journal(run_dir / LAYERS) if mesh.is_main else None
        self._looks_inside = isinstance(assembly.model, Transformer) and not compiled and mesh.sequence == 1
        names = [name for name, _ in fragments.trained_parameters(assembly.engine)]
        self._layers = list(dict.fromkeys(map(layer_of, names)))
        self._number = {name: self._layers.index(layer_of(name)) for name in names}
        self._copies = mesh.world_size // mesh.tensor if assembly.engine.zero_optimization_stage() == 0 else 1
        self._before: dict[Any, Tensor] = {}
        self._squares: Tensor | None = None
        self._row: Batch | None = None

    def is_due(self, step: int) -> bool:
        """Whether this step is looked at."""
        return step % self._every == 0

    def keep_row(self, batch: Batch) -> None:
        """Takes the first row of the step's first micro-batch."""
        if self._row is None and self._looks_inside:
            self._row = batch.split(1)[0]

    @torch.no_grad()
    def before_step(self, gradients: Iterator[tuple[Any, Tensor]]) -> None:
        """Takes up the gradients of this rank's shares, and copies of the weights."""
        names = {parameter: name for name, parameter in fragments.trained_parameters(self._assembly.engine)}
        self._squares = torch.zeros(3, len(self._layers), dtype=torch.float64, device=self._mesh.device)
        for parameter, gradient in gradients:
            self._add(1, names[parameter], gradient)
        self._before = {(name, region): weight.clone() for name, region, weight in self._weights()}

    @torch.no_grad()
    def after_step(self, step: int, tokens: int) -> None:
        """Writes the line; waits for the device."""
        assert self._squares is not None
        for name, region, weight in self._weights():
            self._add(0, name, weight)
            self._add(2, name, weight - self._before[name, region])
        self._before = {}
        squares = self._squares
        if self._mesh.world_size > 1:
            torch.distributed.all_reduce(squares)
        inside = {}
        if self._row is not None:
            module = self._assembly.engine.module
            inside = measure_activations(module, self._row)
        self._row = self._squares = None
        if self._journal is None:
            return
        weight, gradient, update = squares.sqrt().tolist()
        line = {"layers": self._layers, "weight_norm": weight, "grad_norm": gradient, "update_norm": update}
        if inside:
            line["blocks"] = [str(number) for number in range(len(inside["activation_rms"]))]
            line |= {name: _plain(value) for name, value in inside.items()}
        self._journal.write(metric_row(step=step, tokens=tokens, metrics=_finite(line)))

    def _weights(self) -> Iterator[tuple[str, Any, Tensor]]:
        for fragment in fragments.held_fragments(self._assembly.engine, self._assembly.partition, moments=False):
            yield fragment.parameter, fragment.region, fragment.views[WEIGHT]

    def _add(self, row: int, name: str, values: Tensor) -> None:
        """Adds a share's squares to its layer; what several ranks hold counts once."""
        assert self._squares is not None
        is_cut = self._assembly.partition.slice_of(name) is not None
        copies = self._copies * (1 if is_cut else self._mesh.tensor)
        square = total_norm([values.float()]).double().square() / copies
        self._squares[row, self._number[name]] += square.to(self._squares.device)


def layer_of(name: str) -> str:
    """model.layers.3.mlp.up_proj.weight → 3; model.embed_tokens.weight → embed_tokens."""
    numbered = re.search(r"\.(\d+)\.", name)
    return numbered[1] if numbered else name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, Tensor) else value


def _finite(value: Any) -> Any:
    """With null for what JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value
