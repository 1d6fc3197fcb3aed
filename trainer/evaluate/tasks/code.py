"""Tasks whose answers are programs: pass@k, by running them in the user's sandbox."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from trainer.evaluate.metrics.bootstrap import interval, resampled, standard_error
from trainer.evaluate.metrics.metric import mean
from trainer.evaluate.metrics.pass_at_k import pass_at_k, tries_of
from trainer.evaluate.sandbox import ProgramSandbox, ProgramVerdict
from trainer.evaluate.tasks.request import Answer, Completion, Request, fingerprint_of
from trainer.evaluate.tasks.store import AnswerStore
from trainer.evaluate.tasks.task import Measured, TaskOutcome
from trainer.evaluate.tasks.template import fill_template

COMPLETION = "completion"  # what a program's template calls the answer


@dataclass(frozen=True)
class CodeDocument:
    """A record, and the prompt that is made of it."""

    number: int
    prompt: str
    record: dict[str, Any]


@dataclass(frozen=True)
class CodeTask:
    """The task set of a task file of kind code: `samples` completions of each document, each run as a `program`.

    `asked` are metrics, pass@k. `completion` has everything of a request but its prompt and number.
    """

    name: str
    version: str
    asked: list[str]
    documents: list[CodeDocument]
    samples: int
    completion: Completion
    program: str
    where: str
    sandbox: ProgramSandbox
    total: int

    def described(self) -> list[str]:
        """Says that documents are left out, and what runs the programs."""
        lines = [f"{self.name}: programs that the model writes are run by {' '.join(self.sandbox.command)}"]
        if self.total > len(self.documents):
            lines.append(
                f"{self.name}: the first {len(self.documents):,} of {self.total:,} documents "
                "(evaluate.task_documents=0 takes all)"
            )
        return lines

    def metrics(self) -> dict[str, bool]:
        """High is good, of each."""
        return {f"{self.name}/{metric}": True for metric in self.asked}

    def requests(self) -> list[tuple[str, Request]]:
        """Each document's, sample by sample."""
        settings = {**vars(self.completion)}
        return [
            (self.name, Completion(**{**settings, "prompt": document.prompt, "number": number}))
            for document in self.documents
            for number in range(self.samples)
        ]

    def judge(
        self, answers: Sequence[Answer], *, resamples: int, store: AnswerStore | None = None
    ) -> list[TaskOutcome]:
        """Runs what was answered; a program that was run before, by the same command, isn't run again."""
        programs = [
            fill_template(self.program, document.record | {COMPLETION: answer}, f"{self.where}: program")
            for document, group in zip(self.documents, self._groups(answers), strict=True)
            for answer in group
        ]
        verdicts = self._run(programs, store)
        samples: list[dict[str, Any]] = []
        groups = zip(self.documents, self._groups(answers), self._groups(verdicts), strict=True)
        for document, group, found in groups:
            passed = sum(verdict.passed for verdict in found)
            samples.append(
                {
                    "task": self.name,
                    "doc_id": document.number,
                    "prompt": document.prompt,
                    "answers": list(group),
                    "passed": [verdict.passed for verdict in found],
                    "why": [verdict.why for verdict in found],
                    "metrics": {name: pass_at_k(self.samples, passed, tries_of(name) or 1) for name in self.asked},
                }
            )
        measured = [
            self._measure(name, [sample["metrics"][name] for sample in samples], resamples) for name in self.asked
        ]
        fingerprint = fingerprint_of(request for _, request in self.requests())
        return [TaskOutcome(self.name, self.version, len(self.documents), fingerprint, measured, samples)]

    def _groups(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        return [values[start : start + self.samples] for start in range(0, len(values), self.samples)]

    def _run(self, programs: list[str], store: AnswerStore | None) -> list[ProgramVerdict]:
        keys = [self.sandbox.key(program) for program in programs]
        known = {
            key: ProgramVerdict(*found[0]) for key, found in (store.read() if store else {}).items() if key in set(keys)
        }
        left = {key: program for key, program in zip(keys, programs, strict=True) if key not in known}
        lock = threading.Lock()

        def run(key: str) -> tuple[str, ProgramVerdict]:
            verdict = self.sandbox.run(left[key])
            if store:
                with lock:
                    store.append(key, [[verdict.passed, verdict.why]])
            return key, verdict

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            known |= dict(pool.map(run, left))
        return [known[key] for key in keys]

    def _measure(self, name: str, values: list[float], resamples: int) -> Measured:
        if not resamples or len(values) < 2:
            return Measured(name, mean(values))
        return Measured(name, mean(values), standard_error(values), *interval(resampled(values, None, resamples)))
