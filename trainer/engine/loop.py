"""The training loop: batches → steps, with logging, evaluation, checkpoints and stops where they are due."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed

from trainer.config import Pretrain
from trainer.config.batches import accumulation_steps
from trainer.config.ramps import Ramps
from trainer.data.tokens.loader import Batch
from trainer.data.tokens.order import derive_key
from trainer.engine.dataset_losses import DatasetLosses
from trainer.engine.deepspeed.gradients import deepspeed_clips
from trainer.engine.gradient_guard import GradientGuard
from trainer.engine.hooks import Hook
from trainer.engine.layer_stats import LayerStats
from trainer.engine.optimizers.build import learning_rates, set_learning_rates
from trainer.engine.recheck import Recheck
from trainer.engine.row_losses import RowLosses, mean_by_position
from trainer.engine.saving import Saving
from trainer.engine.schedule import scheduled_rate
from trainer.engine.sequence import own_part
from trainer.engine.step_judge import StepJudge
from trainer.engine.step_times import StepTimes
from trainer.engine.targets import Step, StepPlan
from trainer.errors import NonFiniteError
from trainer.machine.json_file import Count, from_json
from trainer.objective.build import Objective
from trainer.objective.losses import by_part
from trainer.ranks.mesh import Mesh
from trainer.ranks.stop import StopRequests
from trainer.ranks.watchdog import Watchdog
from trainer.track.metrics import memory_bytes, mfu
from trainer.track.spikes import SPIKE, SpikeWatch

LOSS = "train/loss"


@dataclass
class Progress:
    """Where a run stands; with the weights and moments, all that a checkpoint must hold."""

    step: Count = 0  # optimiser steps taken
    position: Count = 0  # sequences consumed: n of the data order
    tokens: Count = 0  # targets trained on
    best_loss: float = math.inf  # of evaluate.watch, the lower the better: negated where higher is better
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


class Evaluator(Protocol):
    """Something to judge in the loop, at an interval of its own. One more is a file in trainer/evaluate/."""

    @property
    def every(self) -> int:
        """Steps between its evaluations; the last step has one, too; 0: never."""

    def run(self) -> dict[str, float]:
        """Metrics by name, of the weights of the moment. Every rank calls it and gets the same."""


@dataclass(frozen=True)
class Watched:
    """The metric that patience and keep_best look at."""

    metric: str
    higher_is_better: bool = False

    def loss(self, metrics: dict[str, float]) -> float | None:
        """Its value, the lower the better; None where this evaluation doesn't have it."""
        value = metrics.get(self.metric)
        return None if value is None else -value if self.higher_is_better else value


class Log(Protocol):
    """What the loop needs of a tracker; ranks other than 0 have none."""

    def log(
        self,
        *,
        step: int,
        tokens: int,
        metrics: dict[str, float],
        limits: dict[str, float] | None = None,
        row_losses: Sequence[float | None] | None = None,
    ) -> None:
        """Logs metrics of a step; `limits` are those that a spike exceeds, `row_losses` its rows', by position."""

    def progress(self, *, step: int) -> None:
        """Moves the progress bar."""


@dataclass(frozen=True)
class Utilisation:
    """What MFU is reckoned with: model FLOPs per trained token in rows of a length, and all devices' peak FLOP/s."""

    flops_per_token: Callable[[int], float]
    peak_flops_per_second: float


@dataclass
class Clock:
    """Wall time since the last logged step, without evaluations and checkpoints."""

    started: float = field(default_factory=time.perf_counter)
    paused: float = 0.0
    data_wait: float = 0.0
    tokens: int = 0
    flops: float = 0.0
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

    `steps` gives the micro-batches of each step, on the CPU; `evaluators` and `hooks` come in their order. `save`
    begins a checkpoint of `progress`, and ends it too if it is given True: the run's last. Every rank calls it.
    `saving` says after which steps. `pace`
    gives the sequences consumed after a step, by which a run by tokens decays its learning rate, whatever its batch
    sizes were; without it, by steps. `by_dataset` tells the losses of a mixture's datasets apart,
    `by_row` those of rows. `judge` says which steps are bad, and `mind_bad_steps` does what is to be done about them;
    after a rewind it gives other `steps`. Without a `judge`, `spikes` says which logged steps stand out.
    """

    config: Pretrain
    mesh: Mesh
    engine: Any
    optimizer: torch.optim.Optimizer
    objective: Objective
    steps: Iterator[Step]
    progress: Progress
    total_steps: int
    utilisation: Utilisation | None
    log: Log | None
    evaluators: Sequence[Evaluator]
    save: Callable[[bool], None]
    saving: Saving
    watchdog: Watchdog
    watched: Watched
    pace: Callable[[int], int] | None = None
    hooks: Sequence[Hook] = ()
    by_dataset: DatasetLosses | None = None
    by_row: RowLosses | None = None
    judge: StepJudge | None = None
    mind_bad_steps: Callable[[list[int]], Iterator[Step] | None] = lambda steps: None
    spikes: SpikeWatch | None = None
    times: StepTimes | None = None
    layers: LayerStats | None = None
    recheck: Recheck | None = None

    def __post_init__(self) -> None:
        self._accumulation = accumulation_steps(self.config, self.mesh.data_size)  # what DeepSpeed was told
        self._ramps = Ramps.of(self.config.train, self.config.data)
        self._guard = GradientGuard(
            self.engine,
            self.optimizer,
            self.mesh,
            clipping=self.config.train.gradient_clipping,
            deepspeed_clips=deepspeed_clips(self.config),
            judge=self.judge,
        )
        self._bad_steps = 0
        self._clock = Clock()
        self._saved_step = self.progress.step

    def run(self, stops: StopRequests) -> str | None:
        """Trains to the end, or to a stop: then its reason, "signal", "time", "file" or "step"; None at the end.

        The last step taken has been checkpointed either way.
        """
        reason = None
        while self.progress.step < self.total_steps and not self.progress.out_of_patience:
            step = self.progress.step + 1
            sums, taken = self._take_step(step)
            reason = stops.poll() or ("step" if step == self.config.train.stop_at else None)
            last = step == self.total_steps or reason is not None
            if self._rewinds(step, last=last):
                if reason is not None:
                    break
                continue
            if step % self.config.track.every == 0 or step == 1 or last:
                self._log_step(step, sums, taken)
            elif self.log is not None:
                self.log.progress(step=step)
            self._evaluate_if_due(step, last=step == self.total_steps)
            self._save_if_due(step, last=last or self.progress.out_of_patience)
            if self.times is not None:
                self.times.pause_ended()
            if reason is not None:
                break
        stops.drain()
        for hook in self.hooks:
            hook.end()
        return reason if self.progress.step < self.total_steps else None

    def _rewinds(self, step: int, *, last: bool) -> bool:
        """Minds the bad steps, where the device is waited for anyway: before a log, an evaluation or a save."""
        if self.judge is None or not (last or self._is_due(step)):
            return False
        bad = self.judge.take_bad()
        self._bad_steps += len(bad)
        steps = self.mind_bad_steps(bad) if bad else None
        if steps is None:
            return False
        self.steps, self._clock, self._saved_step = steps, Clock(), self.progress.step
        return True

    def _is_due(self, step: int) -> bool:
        """Whether something is logged, evaluated or saved after a step."""
        evaluates = any(_is_due(evaluator, step) for evaluator in self.evaluators)
        return step % self.config.track.every == 0 or step == 1 or self._saves_at(step) or evaluates

    def _take_step(self, step: int) -> tuple[dict[str, torch.Tensor], Step]:
        """One optimiser step; this rank's sums of losses and measures, on the device; and what it took."""
        set_learning_rates(
            self.optimizer,
            lambda peak: scheduled_rate(
                self.config.schedule, peak=peak, step=step, total_steps=self.total_steps, pace=self.pace
            ),
        )
        self.watchdog.beat("data", step)
        with self._waiting_for_data():
            counted = next(self.steps)
        # DeepSpeed averages over ranks (but tensor-parallel peers) and micro-steps; the loss is the sum over the global
        # batch's targets, of which sequence-parallel ranks have parts.
        scale = self._accumulation * self.mesh.data_size * self.mesh.sequence / max(1, counted.units)
        sums = {LOSS: torch.zeros((), device=self.mesh.device)}
        kept = [each for each in (self.by_dataset, self.by_row) if each is not None]
        for each in kept:
            each.begin_step()
        looked_at = self.layers if self.layers is not None and self.layers.is_due(step) else None
        for batch in self._on_device(counted, step):
            self.watchdog.beat("train")
            self._seed_dropout(batch)
            if looked_at is not None:
                looked_at.keep_row(batch)
            with self._timed("forward"):
                found = self.objective.losses(self.engine, batch)
                losses = found.rows.sum()
            with self._timed("backward"):
                self.engine.backward(losses * scale)
            sums[LOSS] += losses.detach()
            if self.recheck is not None:
                self.recheck.keep(batch, found.rows)
            for name, values in found.measures.items():
                sums[name] = sums.get(name, 0) + values.sum()
            for each in kept:
                each.add(batch, found.rows, self.objective.units(batch))
            with self._timed("optimiser"):
                if self.engine.is_gradient_accumulation_boundary():
                    if self.recheck is not None:
                        self.recheck.before_step(step, sums[LOSS], counted.units, self._seed_dropout)
                    if self.judge is not None:
                        self.judge.begin(step, sums[LOSS], counted.units)
                    if looked_at is not None:
                        looked_at.before_step(self._guard.shares())
                    self._guard.before_step(step)
                self._guard.step()
        for hook in self.hooks:
            after = partial(hook.after_step, step)
            if hook.off_clock:
                self._clock.pause(after)
            else:
                after()
        self._guard.after_step(step, synchronise=self._is_due(step) or step == self.total_steps)
        self.progress.step = step
        self.progress.position += counted.plan.size.rows
        self.progress.tokens += counted.targets
        self._clock.steps += 1
        self._clock.tokens += counted.targets
        if self.utilisation is not None:
            length = counted.plan.size.length or self.config.data.sequence_length
            self._clock.flops += counted.targets * self.utilisation.flops_per_token(length)
        if looked_at is not None:
            self._clock.pause(lambda: looked_at.after_step(step, self.progress.tokens))
        return sums, counted

    def _on_device(self, counted: Step, step: int) -> Iterator[Batch]:
        """This rank's part of a step's micro-batches, on its device."""
        waiting, length = iter(counted.batches), counted.plan.size.length
        for number in range(counted.plan.micro_steps):
            self.watchdog.beat("data", step)
            with self._waiting_for_data():
                batch = next(waiting)
                batch = batch if length is None else batch.cut(length)
                batch = own_part(batch, self.mesh).to(self.mesh.device)
            if self._ramps.batches:  # DeepSpeed's own count of micro-steps knows one size of a step
                self.engine.set_gradient_accumulation_boundary(number + 1 == counted.plan.micro_steps)
            yield batch
        next(waiting, None)  # used up: what comes next may be read and counted

    def _timed(self, section: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.times is None else self.times.section(section)

    @contextlib.contextmanager
    def _waiting_for_data(self) -> Iterator[None]:
        began = time.perf_counter()
        with self._timed("data"):
            yield
        self._clock.data_wait += time.perf_counter() - began

    def _seed_dropout(self, batch: Batch) -> None:
        """Dropout is a function of (seed, position of the micro-batch): exact at a resume, the same at any world."""
        if self.engine.module.has_dropout:
            torch.manual_seed(derive_key("dropout", self.config.seed, batch.position) >> 1)

    def _log_step(self, step: int, sums: dict[str, torch.Tensor], taken: Step) -> None:
        self.watchdog.beat("log")
        total = torch.stack([values.double() for values in sums.values()])
        batch_size, units = taken.plan.size.rows, taken.units
        apart = [] if self.by_dataset is None else [self.by_dataset.sums()]
        if self.by_row is not None:
            apart.append(self.by_row.by_position(self.progress.position - batch_size, batch_size))
        total = torch.cat((total, *(each.flatten().to(total.device) for each in apart)))
        if self.mesh.world_size > 1:
            torch.distributed.all_reduce(total)  # on the device's own network, behind what it has to do
        self._guard.after_step(step, synchronise=True)
        total = total.cpu() / self.mesh.tensor  # tensor-parallel peers have the same losses
        means = by_part({name: value / max(1, units) for name, value in zip(sums, total.tolist(), strict=False)})
        loss = means.pop(LOSS)
        if not math.isfinite(loss) and self.judge is None:
            raise NonFiniteError(f"step {step}: the loss is {loss}; lower optimizer.lr or look at the data.")
        extra = means | {name: value for hook in self.hooks for name, value in hook.metrics().items()}
        if self.by_dataset is not None:
            extra |= self.by_dataset.metrics(total[len(sums) :][: apart[0].numel()].view(2, -1), self.progress.position)
        if self.log is not None:
            metrics = self._metrics(loss, taken.plan)
            limits = {} if self.spikes is None else self.spikes.judge({"step": step, **metrics})
            extra |= self._health(limits)
            wanted = self.by_row is not None and limits
            rows = mean_by_position(total[-2 * batch_size :].view(2, -1)) if wanted else None
            self.log.log(
                step=step, tokens=self.progress.tokens, metrics=metrics | extra, limits=limits, row_losses=rows
            )
        self._clock = Clock()

    def _health(self, limits: dict[str, float]) -> dict[str, float]:
        """Whether there was a bad step since the last log; where nothing is done about them, whether this is one."""
        if self.judge is not None:
            bad, self._bad_steps = self._bad_steps, 0
            return {SPIKE: float(bad > 0), "health/bad_steps": bad}
        return {} if self.spikes is None else {SPIKE: float(bool(limits))}

    def _metrics(self, loss: float, plan: StepPlan) -> dict[str, float]:
        clock, steps = self._clock, self._clock.steps
        seconds = clock.training_seconds()
        tokens_per_second = clock.tokens / seconds
        cuda = self.mesh.device.type == "cuda"
        metrics = {
            LOSS: loss,
            "train/grad_norm": self._guard.norm(),
            **learning_rates(self.optimizer),
            "perf/tokens_per_second": tokens_per_second,
            "perf/step_seconds": seconds / steps,
            "perf/data_wait_seconds": clock.data_wait / steps,
            "perf/memory_bytes": memory_bytes(torch.cuda.max_memory_allocated() if cuda else None),
        }
        if plan.padding > 0:
            metrics["perf/padding_share"] = plan.padding
        if not self._ramps.is_flat:
            length = self.config.data.sequence_length
            parts = length // (plan.size.length or length)
            metrics |= {"train/batch_size": plan.size.rows * parts, "train/sequence_length": length // parts}
        if self.utilisation is not None:
            peak, per_token = self.utilisation.peak_flops_per_second, clock.flops / max(1, clock.tokens)
            metrics["perf/mfu"] = mfu(
                tokens_per_second=tokens_per_second, flops_per_token=per_token, peak_flops_per_second=peak
            )
        if clock.checkpoint_stall:
            metrics["perf/checkpoint_stall_seconds"] = clock.checkpoint_stall
        return metrics

    def _evaluate_if_due(self, step: int, *, last: bool) -> None:
        metrics: dict[str, float] = {}
        for evaluator in self.evaluators:
            if _is_due(evaluator, step) or (last and evaluator.every > 0):
                self._clock.pause(lambda evaluator=evaluator: metrics.update(evaluator.run()))  # type: ignore[misc]
        if metrics and self.log is not None:
            self.log.log(step=step, tokens=self.progress.tokens, metrics=metrics)
        self._judge(self.watched.loss(metrics))

    def _judge(self, loss: float | None) -> None:
        """Keeps count of the best value of what is watched, and of the patience that is left."""
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
        improved = self.config.checkpoint.keep_best and self.progress.best_step == step
        return self.saving.is_due(step) or improved

    def _save_if_due(self, step: int, *, last: bool) -> None:
        if (self._saves_at(step) or last) and self._saved_step != step:
            self.watchdog.beat("save")
            stall_s = self._clock.pause(lambda: self.save(last))
            self._clock.checkpoint_stall += stall_s
            self._saved_step = step
            if not last:
                self.saving.saved(step, stall_s)


def _is_due(evaluator: Evaluator, step: int) -> bool:
    return evaluator.every > 0 and step % evaluator.every == 0
