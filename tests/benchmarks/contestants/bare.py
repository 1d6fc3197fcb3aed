"""A bare loop of the same model in plain PyTorch: no DeepSpeed, no data loading, no logs. Several ranks are DDP's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NoReturn

import torch
from torch.nn.parallel import DistributedDataParallel

from tests.benchmarks.case import Case
from tests.benchmarks.contestants.stage import Stage
from tests.benchmarks.tokens import rows
from tests.benchmarks.turns import Turns
from trainer.config import Model
from trainer.model.decoder import Transformer
from trainer.model.loss import logit_losses

# Tokens and targets, (rows, time) each → the mean loss, 0-d
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build(case: Case) -> torch.nn.Module:
    """The model of a case, on its device."""
    torch.manual_seed(0)
    with torch.device(case.device):
        model = Transformer(Model(**case.model_settings(), loss_chunk=case.loss_chunk))
    model.set_activation_checkpointing(case.activation_checkpointing)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    if case.compile:
        for block in model.blocks:
            block.compile()
        model.measure = torch.compile(logit_losses)
    return model


def build_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW as Banyan's: fused, with decay on what has two dimensions."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)


def autocast(case: Case) -> contextlib.AbstractContextManager:
    """The case's precision."""
    if case.precision == "bf16":
        return torch.autocast(case.device, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def train_in_turns(stage: Stage, model: torch.nn.Module, loss_of: Loss) -> NoReturn:
    """Steps on one batch, which is on the device already."""
    case = stage.case
    optimizer = build_optimizer(model)
    drawn = next(rows(stage.folder, rank=stage.rank, ranks=case.ranks, size=case.rows, length=case.sequence_length))
    tokens = torch.from_numpy(drawn).to(case.device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    turns = Turns(case.warmup)
    while True:
        turns.between()
        with autocast(case):
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    """Trains in turns."""
    stage = Stage.from_arguments()
    model = build(stage.case)
    if stage.case.ranks > 1:
        torch.distributed.init_process_group("gloo" if stage.case.device == "cpu" else "nccl")
        model = DistributedDataParallel(model)
    train_in_turns(stage, model, lambda inputs, targets: model(inputs, targets).sum() / targets.numel())


if __name__ == "__main__":
    main()
