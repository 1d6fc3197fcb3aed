"""lm-evaluation-harness as a library: its tasks, prompts and metrics as they stand, our answers.

Its own `evaluate` builds the requests and judges the answers, so figures are its figures; between the two, the requests
go through the model as those of any other task do, spread over ranks.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import BanyanError, ConfigError, InputError
from trainer.evaluate.metrics.bootstrap import interval, resampled
from trainer.evaluate.metrics.metric import mean
from trainer.evaluate.tasks.documents import is_number
from trainer.evaluate.tasks.request import Answer, Completion, Likelihood, Request, Rolling, fingerprint_of
from trainer.evaluate.tasks.store import AnswerStore
from trainer.evaluate.tasks.task import Measured, TaskOutcome

EXTRA = "lm-eval isn't installed: pip install 'banyan-train[eval]'"
NO_FILTER = "none"
DEFAULT_LENGTH = 256  # tokens of a completion, where a task doesn't say: HFLM's


class Harness:
    """lm-evaluation-harness with its tasks, and those of a folder. ConfigError if it isn't installed."""

    def __init__(self, folders: Sequence[Path], *, may_download: bool, defaults: bool = True) -> None:
        if not may_download:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
            os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("DISABLE_MULTIPROC", "1")  # bootstraps in processes of its own
        with _quiet():
            try:
                from lm_eval.tasks import TaskManager
            except ImportError:
                raise ConfigError(f"evaluate.tasks: {EXTRA}.") from None
            try:
                self._manager = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=defaults)
            except Exception as error:
                raise InputError(f"evaluate.task_dir: lm-eval can't read it ({_in_a_line(error)}).") from error

    @property
    def names(self) -> list[str]:
        """Tasks, groups and tags."""
        return list(self._manager.all_tasks)

    def open(self, names: list[str], limit: int) -> HarnessTasks:
        """The tasks, with the first `limit` documents of each (0: all). InputError: data can't be had."""
        loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
        with _quiet():
            for name in names:
                try:
                    one: Any = self._manager.load([name])
                except Exception as error:
                    raise InputError(f"evaluate.tasks: {name}: {_mend(error)}") from error
                for part in loaded:
                    loaded[part] |= one.get(part, {})
            return HarnessTasks(loaded, limit)


class HarnessTasks:
    """A task set of the harness's tasks; their requests are built once."""

    def __init__(self, loaded: dict[str, Any], limit: int) -> None:
        self._loaded = loaded
        self._limit = limit or None
        for name, task in loaded["tasks"].items():
            if getattr(task, "UNSAFE_CODE", False):
                raise ConfigError(
                    f"evaluate.tasks: {name}: lm-eval would run code that the model writes in this process, which "
                    "is never done here; write a task file of kind: code, which evaluate.sandbox runs."
                )
            with _quiet():
                try:
                    task.build_all_requests(limit=self._limit, rank=0, world_size=1)
                except Exception as error:
                    raise InputError(f"evaluate.tasks: {name}: {_mend(error)}") from error
            if not task.instances:
                raise InputError(f"evaluate.tasks: {name}: it has no documents.")
            task.build_all_requests = lambda **_: None  # `evaluate` asks again

    def described(self) -> list[str]:
        """Says of which tasks documents are left out."""
        lines = []
        for name, task in self._loaded["tasks"].items():
            total = len(task.eval_docs)
            if self._limit and self._limit < total:
                lines.append(
                    f"{name}: the first {self._limit:,} of {total:,} documents (evaluate.task_documents=0 takes all)"
                )
        return lines

    def metrics(self) -> dict[str, bool]:
        """Whether higher is better, of each that a task's configuration names."""
        found = {}
        for name, task in self._loaded["tasks"].items():
            for metric, higher in task.higher_is_better().items():
                found[f"{name}/{metric}"] = higher is not False
        return found

    def requests(self) -> list[tuple[str, Request]]:
        """In the order in which `evaluate` asks."""
        return [
            (name, request)
            for _, instances in self._asked().items()
            for name, instance, number in instances
            for request in [_as_request(instance, number)]
        ]

    def _asked(self) -> dict[str, list[tuple[str, Any, int]]]:
        """Instances by kind of request, repeats one by one, as `evaluate` groups them."""
        asked: dict[str, list[tuple[str, Any, int]]] = defaultdict(list)
        for name, task in self._loaded["tasks"].items():
            for instance in task.instances:
                asked[instance.request_type] += [(name, instance, number) for number in range(instance.repeats)]
        return asked

    def judge(
        self, answers: Sequence[Answer], *, resamples: int, store: AnswerStore | None = None
    ) -> list[TaskOutcome]:
        """What lm-evaluation-harness makes of the answers."""
        from lm_eval.evaluator import evaluate

        by_kind, start = {}, 0
        for kind, instances in self._asked().items():
            by_kind[kind] = list(answers[start : start + len(instances)])
            start += len(instances)
            for _, instance, _ in instances:
                instance.resps, instance.filtered_resps = [], {}
        with _quiet():
            results: Any = evaluate(_answered(by_kind), self._loaded, limit=self._limit, bootstrap_iters=resamples)
        asked: dict[str, list[Request]] = defaultdict(list)
        for name, request in self.requests():
            asked[name].append(request)
        return [self._result(name, figures, results, asked, resamples) for name, figures in results["results"].items()]

    def _result(
        self,
        name: str,
        figures: dict[str, Any],
        results: dict[str, Any],
        asked: dict[str, list[Request]],
        resamples: int,
    ) -> TaskOutcome:
        samples = [_sample(name, sample) for sample in results.get("samples", {}).get(name, [])]
        higher = results["higher_is_better"].get(name) or {}
        measured = []
        for key, value in figures.items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr") or not is_number(value):
                continue
            error = figures.get(f"{metric}_stderr,{chosen}")
            label = _label(metric, chosen)
            low = high = None
            values = [sample["metrics"].get(label) for sample in samples if label in sample["metrics"]]
            is_mean = (
                len(values) > 1 and all(map(is_number, values)) and math.isclose(mean(values), value, rel_tol=1e-9)
            )
            if resamples and is_mean:  # a perplexity's values are likelihoods, of which it isn't the mean
                low, high = interval(resampled(values, None, resamples))
            measured.append(
                Measured(
                    label,
                    float(value),
                    float(error) if error is not None and is_number(error) else None,
                    low,
                    high,
                    higher.get(metric) is not False,
                )
            )
        tasks = [name] if name in asked else _children(name, results["group_subtasks"], asked)
        fingerprint = fingerprint_of(request for each in tasks for request in asked[each])
        count = sum(len({i.doc_id for i in self._loaded["tasks"][each].instances}) for each in tasks)
        return TaskOutcome(name, str(results["versions"].get(name)), count, fingerprint, measured, samples)


def _children(name: str, groups: dict[str, list[str]], asked: dict[str, list[Request]]) -> list[str]:
    """The tasks of a group and its groups."""
    found: list[str] = []
    for child in groups.get(name, []):
        found += [child] if child in asked else _children(child, groups, asked)
    return found


def _as_request(instance: Any, number: int) -> Request:
    kind, arguments = instance.request_type, instance.args
    if kind == "loglikelihood":
        return Likelihood(*arguments)
    if kind == "loglikelihood_rolling":
        return Rolling(*arguments)
    if kind != "generate_until":
        raise ConfigError(f"evaluate.tasks: requests of kind {kind} can't be answered by a language model alone.")
    prompt, settings = arguments
    lengths = [
        settings[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if settings.get(key) is not None
    ]
    until = settings.get("until") or []
    sampled = bool(settings.get("do_sample", float(settings.get("temperature") or 0.0) > 0))
    return Completion(
        prompt,
        tuple([until] if isinstance(until, str) else until),
        int(lengths[0]) if lengths else DEFAULT_LENGTH,
        float(settings.get("temperature", 1.0) or 0.0) if sampled else 0.0,
        float(settings.get("top_p", 1.0)),
        int(settings.get("top_k", 0) or 0),
        number,
    )


def _answered(by_kind: dict[str, list[Answer]]) -> Any:
    """A model of lm-evaluation-harness that has the answers already."""
    from lm_eval.api.model import LM

    class Answered(LM):
        def loglikelihood(self, requests: Any) -> Any:
            return by_kind["loglikelihood"]

        def loglikelihood_rolling(self, requests: Any) -> Any:
            return by_kind["loglikelihood_rolling"]

        def generate_until(self, requests: Any) -> Any:
            return by_kind["generate_until"]

    return Answered()


def _sample(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """Its sample as ours: what was asked, what was answered, and values by metric."""
    chosen = sample["filter"]
    return {
        "task": task,
        "doc_id": sample["doc_id"],
        **({} if chosen == NO_FILTER else {"filter": chosen}),
        "requests": [[_plain(part) for part in arguments] for arguments in sample["arguments"]],
        "target": _plain(sample["target"]),
        "answers": [_plain(answer) for answer in sample["filtered_resps"]],
        "metrics": {_label(metric, chosen): _plain(sample[metric]) for metric in sample["metrics"]},
    }


def _label(metric: str, chosen: str) -> str:
    return metric if chosen == NO_FILTER else f"{metric},{chosen}"


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _mend(error: Exception) -> str:
    """Why a task can't be loaded, in a line, and what to do."""
    if isinstance(error, BanyanError):
        return str(error)
    if isinstance(error, FileNotFoundError | ConnectionError) or "offline" in str(error).lower():
        return (
            f"its data can't be had ({_in_a_line(error)}); put them where it says, or run.allow_download=true lets "
            "lm-eval fetch them."
        )
    return f"lm-eval can't load it ({_in_a_line(error)})."


def _in_a_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Where the harness and its libraries report to the log, if at all, and not to the console."""
    names = ("lm_eval", "datasets", "evaluate", "httpx", "huggingface_hub")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    bars = os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS")
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars is None:
            del os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"]
