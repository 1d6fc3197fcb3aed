"""The training loop: batches → steps, with logging, evaluation, checkpoints and stops where they are due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed

from trainer.config import Pretrain
from trainer.config.batches import accumulation_steps, padding_of
from trainer.data.tokens.loader import Batch
from trainer.data.tokens.order import derive_key
from trainer.engine.expert_load import ExpertLoad
from trainer.engine.gradient_guard import GradientGuard
from trainer.engine.optimizers.build import learning_rates, set_learning_rates
from trainer.engine.schedule import learning_rate
from trainer.engine.sequence import own_part
from trainer.errors import NonFiniteError
from trainer.machine.json_file import Count, from_json
from trainer.ranks.mesh import Mesh
from trainer.ranks.stop import StopRequests
from trainer.ranks.watchdog import Watchdog
from trainer.track.metrics import memory_bytes, mfu


@dataclass
class Progress:
    """Where a run stands; with the weights and moments, all that a checkpoint must hold."""

    step: Count = 0  # optimiser steps taken
    position: Count = 0  # sequences consumed: n of the data order
    tokens: Count = 0  # targets trained on
    best_loss: float = math.inf  # on evaluate.watch
    best_step: Count | None = None
    evaluations_since_best: Count = 0
    out_of_patience: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object; an infinite best loss is null."""
        return {**asdict(self), "best_loss": self.best_loss if math.isfinite(self.best_loss) else None}

    @staticmethod
    def from_json(record: dict[str, Any]) -> Progress:
        """to_json's inverse. Malformed where that can't have come from it."""
        known = {name: value for name, value in record.items() if name != "best_loss" or value is not None}
        return from_json(Progress, known)


class Log(Protocol):
    """What the loop needs of a tracker; ranks other than 0 have none."""

    def log(self, *, step: int, tokens: int, metrics: dict[str, float]) -> None:
        """Logs metrics of a step."""

    def progress(self, *, step: int) -> None:
        """Moves the progress bar."""


@dataclass(frozen=True)
class Utilisation:
    """What MFU is reckoned with: model FLOPs per trained token, and the peak FLOP/s of all devices together."""

    flops_per_token: float
    peak_flops_per_second: float


@dataclass
class Clock:
    """Wall time since the last logged step, without evaluations and checkpoints."""

    started: float = field(default_factory=time.perf_counter)
    paused: float = 0.0
    data_wait: float = 0.0
    checkpoint_stall: float = 0.0
    steps: int = 0

    def training_seconds(self) -> float:
        """Seconds spent on steps."""
        return time.perf_counter() - self.started - self.paused

    def pause(self, work: Callable[[], Any]) -> float:
        """Runs `work` off the clock; its seconds."""
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        self.paused += seconds
        return seconds


@dataclass
class Trainer:
    """One rank's part in a run.

    `evaluate` scores all validation sets and returns the loss on evaluate.watch, if there is one; `save` begins a
    checkpoint of `progress`, and ends it too if it is given True: the run's last. Every rank calls both. `expert_load`
    is there if the model has experts. `pace` tells the sequences consumed after a step, by which a run by tokens decays
    its learning rate, whatever its batch sizes were; without it, by steps.
    """

    config: Pretrain
    mesh: Mesh
    engine: Any
    optimizer: torch.optim.Optimizer
    batches: Iterator[Batch]
    progress: Progress
    total_steps: int
    utilisation: Utilisation | None
    log: Log | None
    evaluate: Callable[[], float | None]
    save: Callable[[bool], None]
    watchdog: Watchdog
    expert_load: ExpertLoad | None = None
    pace: Callable[[int], int] | None = None

    def __post_init__(self) -> None:
        self._accumulation = accumulation_steps(self.config, self.mesh.data_size)
        self._targets = self.config.train.batch_size * self.config.data.sequence_length
        self._padding = padding_of(self.config, self.mesh.data_size)
        self._guard = GradientGuard(self.engine, self.optimizer, self.config, self.mesh)
        self._clock = Clock()
        self._saved_step = self.progress.step

    def run(self, stops: StopRequests) -> str | None:
        """Trains to the end, or to a stop: then its reason, "signal", "time", "file" or "step"; None at the end.

        The last step taken has been checkpointed either way.
        """
        reason = None
        while self.progress.step < self.total_steps and not self.progress.out_of_patience:
            step = self.progress.step + 1
            loss_sum = self._take_step(step)
            reason = stops.poll() or ("step" if step == self.config.train.stop_at else None)
            last = step == self.total_steps or reason is not None
            if step % self.config.track.every == 0 or step == 1 or last:
                self._log_step(step, loss_sum)
            elif self.log is not None:
                self.log.progress(step=step)
            self._evaluate_if_due(step, last=step == self.total_steps)
            self._save_if_due(step, last=last or self.progress.out_of_patience)
            if reason is not None:
                break
        stops.drain()
        return reason if self.progress.step < self.total_steps else None

    def _take_step(self, step: int) -> torch.Tensor:
        """One optimiser step; this rank's sum of losses, on the device."""
        set_learning_rates(
            self.optimizer,
            lambda peak: learning_rate(
                self.config.schedule, peak=peak, step=step, total_steps=self.total_steps, pace=self.pace
            ),
        )
        # DeepSpeed averages over ranks (but tensor-parallel peers) and micro-steps; the loss is the sum over the global
        # batch's targets, of which sequence-parallel ranks have parts.
        scale = self._accumulation * self.mesh.data_size * self.mesh.sequence / self._targets
        loss_sum = torch.zeros((), device=self.mesh.device)
        for _ in range(self._accumulation):
            self.watchdog.beat("data", step)
            batch = self._next_batch()
            self.watchdog.beat("train")
            self._seed_dropout(batch)
            losses = self.engine(batch.inputs, batch.targets, batch.document_ids).sum()
            self.engine.backward(losses * scale)
            loss_sum += losses.detach()
            if self.engine.is_gradient_accumulation_boundary():
                self._guard.before_step(step)
            self._guard.step()
        due = step % self.config.track.every == 0 or self._saves_at(step) or self._evaluates_at(step)
        self._guard.after_step(step, synchronise=due or step == self.total_steps)
        self.progress.step = step
        self.progress.position += self.config.train.batch_size
        self.progress.tokens += self._targets
        self._clock.steps += 1
        return loss_sum

    def _next_batch(self) -> Batch:
        began = time.perf_counter()
        batch = own_part(next(self.batches), self.mesh).to(self.mesh.device)
        self._clock.data_wait += time.perf_counter() - began
        return batch

    def _seed_dropout(self, batch: Batch) -> None:
        """Dropout is a function of (seed, position of the micro-batch): exact at a resume, the same at any world."""
        if self.engine.module.draws:
            torch.manual_seed(derive_key("dropout", self.config.seed, batch.position) >> 1)

    def _log_step(self, step: int, loss_sum: torch.Tensor) -> None:
        self.watchdog.beat("log")
        total = loss_sum.double().cpu()
        if self.mesh.world_size > 1:
            torch.distributed.all_reduce(total, group=self.mesh.control)
        self._guard.after_step(step, synchronise=True)
        loss = total.item() / self.mesh.tensor / self._targets  # tensor-parallel peers have the same losses
        if not math.isfinite(loss):
            raise NonFiniteError(f"step {step}: the loss is {loss}; lower optimizer.lr or look at the data.")
        load = self.expert_load.metrics() if self.expert_load is not None else {}
        if self.log is not None:
            self.log.log(step=step, tokens=self.progress.tokens, metrics=self._metrics(step, loss) | load)
        self._clock = Clock()

    def _metrics(self, step: int, loss: float) -> dict[str, float]:
        clock, steps = self._clock, self._clock.steps
        seconds = clock.training_seconds()
        tokens_per_second = steps * self._targets / seconds
        cuda = self.mesh.device.type == "cuda"
        metrics = {
            "train/loss": loss,
            "train/grad_norm": self._guard.norm(),
            **learning_rates(self.optimizer),
            "perf/tokens_per_second": tokens_per_second,
            "perf/step_seconds": seconds / steps,
            "perf/data_wait_seconds": clock.data_wait / steps,
            "perf/memory_bytes": memory_bytes(torch.cuda.max_memory_allocated() if cuda else None),
        }
        if self._padding > 0:
            metrics["perf/padding_share"] = self._padding
        if self.utilisation is not None:
            metrics["perf/mfu"] = mfu(tokens_per_second=tokens_per_second, **vars(self.utilisation))
        if clock.checkpoint_stall:
            metrics["perf/checkpoint_stall_seconds"] = clock.checkpoint_stall
        return metrics

    def _evaluates_at(self, step: int) -> bool:
        every = self.config.evaluate.every
        return every > 0 and step % every == 0

    def _evaluate_if_due(self, step: int, *, last: bool) -> None:
        if not self._evaluates_at(step) and not (last and self.config.evaluate.every > 0):
            return
        self._clock.pause(lambda: self._judge(self.evaluate()))

    def _judge(self, loss: float | None) -> None:
        """Keeps count of the best loss on the watched set, and of the patience that is left."""
        if loss is None:
            return
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            self.progress.evaluations_since_best = 0
        else:
            self.progress.evaluations_since_best += 1
        patience = self.config.evaluate.patience
        self.progress.out_of_patience = patience > 0 and self.progress.evaluations_since_best >= patience

    def _saves_at(self, step: int) -> bool:
        every = self.config.checkpoint.every
        improved = self.config.checkpoint.keep_best and self.progress.best_step == step
        return (every > 0 and step % every == 0) or improved

    def _save_if_due(self, step: int, *, last: bool) -> None:
        if (self._saves_at(step) or last) and self._saved_step != step:
            self.watchdog.beat("save")
            self._clock.checkpoint_stall += self._clock.pause(lambda: self.save(last))
            self._saved_step = step
