"""Tasks in the training loop: the weights of the moment, judged by the same code as `banyan evaluate`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trainer.config import Evaluate
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import ConfigError
from trainer.evaluate.tasks.answer import Answering
from trainer.evaluate.tasks.code import CodeTask
from trainer.evaluate.tasks.encode import RequestEncoder
from trainer.evaluate.tasks.find import open_tasks
from trainer.evaluate.tasks.request import Answer
from trainer.evaluate.tasks.store import AnswerStore
from trainer.evaluate.tasks.task import TaskOutcome, TaskSet
from trainer.evaluate.tasks.work import Computed, EncodedRequests, TaskWork, encode_requests, spread_work
from trainer.ranks.mesh import Mesh

SHARE = 0.01  # of training time, above which it is said what to change


@dataclass(frozen=True)
class Judge:
    """Tasks whose requests are encoded: the work is on every rank, tasks and questions on rank 0 alone."""

    work: TaskWork
    sets: list[TaskSet]
    questions: EncodedRequests | None
    tokenizer: Tokenizer
    metrics: dict[str, bool]
    """Whether higher is better, of each TASK/METRIC; on every rank."""

    def results(self, found: Computed, *, resamples: int, store: AnswerStore | None = None) -> list[TaskOutcome]:
        """Every set's. Rank 0 calls it."""
        assert self.questions is not None
        answers, results, start = self.questions.answers(found), [], 0
        for each in self.sets:
            count = len(each.requests())
            part: list[Answer] = answers[start : start + count]
            results += each.judge(part, resamples=resamples, store=store)
            start += count
        return results


def read_tasks(settings: Evaluate, mesh: Mesh, *, may_download: bool, in_loop: bool = False) -> list[TaskSet]:
    """The tasks, read and checked: on rank 0, none elsewhere. Every rank calls it; what is wrong is raised on all."""
    found: list[TaskSet] = []

    def read() -> None:
        found.extend(open_tasks(settings, may_download=may_download))
        for each in found:
            if in_loop and isinstance(each, CodeTask):
                raise ConfigError(
                    f"evaluate.tasks: {each.name} runs programs, for which all ranks would wait: leave it out while "
                    "training, and judge checkpoints by banyan evaluate."
                )

    mesh.main_finds(read)
    return found


def open_judge(sets: list[TaskSet], encoder: RequestEncoder, mesh: Mesh) -> Judge:
    """Encodes what `read_tasks` gave, and shares the work out. Every rank calls it.

    Which tasks there are, few-shot examples included, doesn't change after that.
    """
    held: list[EncodedRequests] = []

    def encode() -> dict[str, bool]:
        requests = [item for each in sets for item in each.requests()]
        held.append(encode_requests([request for _, request in requests], encoder, [name for name, _ in requests]))
        return {name: higher for each in sets for name, higher in each.metrics().items()}

    metrics = mesh.main_finds(encode)
    questions = held[0] if held else None
    work = spread_work(questions.work if questions else None, mesh)
    return Judge(work, sets, questions, encoder.tokenizer, metrics)


@dataclass
class TaskEvaluator:
    """Judges the model in training, every evaluate.tasks_every steps; figures are eval/TASK/METRIC.

    At any number of ranks and any ZeRO stage batches are the same, so figures are. `say` gets a line where it takes
    more than SHARE of the time.
    """

    judge: Judge
    engine: Any
    settings: Evaluate
    mesh: Mesh
    beat: Callable[[], None]
    say: Callable[[str], None]
    latest: list[TaskOutcome] = field(default_factory=list)
    _ended: float = field(default_factory=time.monotonic)
    _said: bool = False

    @property
    def every(self) -> int:
        """Steps between judgements."""
        return self.settings.tasks_every

    def run(self) -> dict[str, float]:
        """Figures of every task. Every rank calls it and gets the same."""
        began = time.monotonic()
        module, was_training = self.engine.module, self.engine.module.training
        self.engine.eval()
        answering = Answering(module, self.judge.tokenizer, self.mesh, self.settings.batch_tokens, beat=self.beat)
        found = answering.find(self.judge.work)
        self.engine.train(was_training)
        metrics: dict[str, float] | None = None
        if self.mesh.is_main:
            self.latest = self.judge.results(found, resamples=0)
            metrics = {
                f"eval/{result.task}/{each.metric}": float(each.value)
                for result in self.latest
                for each in result.measured
                if isinstance(each.value, int | float)
            }
        metrics = self.mesh.from_main(metrics) or {}
        self._tell_share(began)
        return metrics

    def _tell_share(self, began: float) -> None:
        now = time.monotonic()
        seconds, share = now - began, (now - began) / max(1e-9, now - self._ended)
        self._ended = now
        if share > SHARE and not self._said and self.mesh.is_main:
            self._said = True
            self.say(
                f"evaluate.tasks took {seconds:.1f} s, {share:.1%} of the time since the last: raise "
                "evaluate.tasks_every, or lower evaluate.task_documents"
            )


def check_watch(watch: str, judge: Judge) -> None:
    """Refuses an evaluate.watch that isn't among the tasks' metrics."""
    if watch not in judge.metrics:
        raise ConfigError(
            f"evaluate.watch={watch}: no such metric of evaluate.tasks; choose one of {', '.join(judge.metrics)}."
        )
