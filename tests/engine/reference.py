"""A single-process run in plain PyTorch, without DeepSpeed: what every layout must agree with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.engine.optimizers.lion_reference import PlainLion
from tests.engine.optimizers.muon_reference import PlainMuon
from tests.run_ranks import read_metrics
from trainer.config import Optimizer, Pretrain
from trainer.data.tokens.datasets import open_training, weights_of
from trainer.data.tokens.order import Order, extend
from trainer.engine.optimizers.build import decays
from trainer.engine.schedule import scheduled_rate
from trainer.model.decoder import Transformer
from trainer.model.initialize import initial_weight
from trainer.objective.causal import to_batch

Sizes = list[tuple[int, int]]  # of each step: rows of data.sequence_length, and the tokens that they are cut into


def train_plainly(config: Pretrain, sizes: Sizes | None = None) -> list[tuple[float, float]]:
    """(loss, gradient norm before clipping) of each step, over the global batch in one piece."""
    return train_model(config, sizes)[1]


def train_model(config: Pretrain, sizes: Sizes | None = None) -> tuple[Transformer, list[tuple[float, float]]]:
    """The trained model, and train_plainly's history."""
    manifest = open_training(config.data)[0].manifest
    config.model.vocab_size = config.model.vocab_size or manifest.vocab_size
    model = Transformer(config.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_weight(config.seed, name, tuple(parameter.shape), config.model))
    return model, train_given(config, model, sizes)


def train_given(config: Pretrain, model: nn.Module, sizes: Sizes | None = None) -> list[tuple[float, float]]:
    """train_plainly's history of a model that has its weights, and is called as Transformer is."""
    training = open_training(config.data)
    optimizers = build_plain_optimizers(config.optimizer, model)
    rows = [dataset.rows for dataset in training]
    by_fingerprint = {dataset.manifest.fingerprint: dataset for dataset in training}
    segments = extend([], first=0, rows=rows, weights=weights_of(config.data))
    order = Order(rows, segments, seed=config.seed, window=config.data.shuffle_shards)
    length = config.data.sequence_length
    sizes = sizes or [(config.train.batch_size, length)] * config.train.steps
    first, history = 0, []
    for step, (size, cut) in enumerate(sizes, start=1):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                peak = optimizer.defaults["lr"]
                group["lr"] = scheduled_rate(config.schedule, peak=peak, step=step, total_steps=config.train.steps)
        places = order.places(first, first + size)
        stream = [by_fingerprint[p.fingerprint].row(p.shard, p.row) for p in places]
        batch = to_batch(
            np.stack([row[begin : begin + cut + 1] for row in stream for begin in range(0, length, cut)]),
            positions=np.arange(first, first + size).repeat(length // cut),
            end_of_text=training[0].manifest.end_of_text if config.data.mask_documents else None,
        )
        loss = model(batch.inputs, batch.targets, batch.document_ids).sum() / batch.targets.numel()
        model.zero_grad()
        loss.backward()
        clip = config.train.gradient_clipping or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer in optimizers:
            optimizer.step()
        history.append((loss.item(), norm.item()))
        first += size
    return history


def build_plain_optimizers(settings: Optimizer, model: nn.Module) -> list[torch.optim.Optimizer]:
    """What steps the model by the method; PlainMuon has the matrices of the blocks, and AdamW the rest."""
    named = dict(model.named_parameters())
    optimizers: list[torch.optim.Optimizer] = []
    if settings.name == "muon":
        matrices = [name for name, parameter in named.items() if ".layers." in name and parameter.ndim > 1]
        hidden = [name for name in matrices if not name.endswith(".mlp.gate.weight")]  # a router
        optimizers.append(
            PlainMuon(
                [named.pop(name) for name in hidden],
                lr=settings.muon_lr,
                momentum=settings.muon_momentum,
                weight_decay=settings.weight_decay,
            )
        )
    groups = [
        {"params": [p for p in named.values() if decays(p)], "weight_decay": settings.weight_decay},
        {"params": [p for p in named.values() if not decays(p)], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    if settings.name == "lion":
        optimizers.append(PlainLion(groups, lr=settings.lr, betas=betas))
    elif settings.name == "sgd":
        optimizers.append(torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum))
    else:
        optimizers.append(torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps))
    return optimizers


def assert_same_course(run_dir: Path, expected: list[tuple[float, float]], tolerance: float) -> list[dict[str, Any]]:
    """Fails unless a run logged every step once, with these losses and gradient norms; its rows."""
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == list(range(1, len(expected) + 1))
    assert [row["train/loss"] for row in rows] == pytest.approx([loss for loss, _ in expected], rel=tolerance)
    assert [row["train/grad_norm"] for row in rows] == pytest.approx([norm for _, norm in expected], rel=tolerance)
    return rows
