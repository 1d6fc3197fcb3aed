"""results.json and the log of samples: what an evaluation leaves for people and programs.

results.json            a list of records: task, version, metric, value, stderr, interval, n, model, step, fingerprint
samples/TASK.jsonl      a line for each document: what was asked, what was answered, its value for each metric
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.evaluate.tasks.task import Measured, TaskOutcome
from trainer.machine.durable import make_folder, replacing, write_json
from trainer.machine.json_file import Malformed, from_json, read_json

FILE, SAMPLES = "results.json", "samples"


@dataclass(frozen=True)
class Record:
    """A figure: of `n` documents, whose requests `fingerprint` names, answered by `model` (at `step` of its run).

    `interval` is where 95 % of bootstrap resamples are; values aren't rounded.
    """

    task: str
    version: str
    metric: str
    value: Any
    stderr: float | None
    interval: list[float] | None
    n: int
    model: str
    step: int | None
    fingerprint: str
    higher_is_better: bool = True


def as_records(results: Sequence[TaskOutcome], *, model: str, step: int | None) -> list[Record]:
    """A record for each figure."""
    return [
        Record(
            result.task,
            result.version,
            each.metric,
            each.value,
            each.stderr,
            None if each.low is None or each.high is None else [each.low, each.high],
            result.documents,
            model,
            step,
            result.fingerprint,
            each.higher_is_better,
        )
        for result in results
        for each in result.measured
    ]


def write_results(
    folder: Path, results: Sequence[TaskOutcome], records: list[Record], *, within: Sequence[str] = ()
) -> None:
    """Writes both; records of other tasks that are there stay, but for those whose names are `within` one of these."""
    make_folder(folder / SAMPLES)
    for result in results:
        if result.samples:
            with replacing(folder / SAMPLES / f"{file_name(result.task)}.jsonl") as out:
                for sample in result.samples:
                    out.write(json.dumps(sample).encode() + b"\n")
    judged = {result.task for result in results}
    there = read_results(folder) if (folder / FILE).exists() else []
    parts = tuple(f"{name}/" for name in within)
    kept = [record for record in there if record.task not in judged and not record.task.startswith(parts)]
    write_json(folder / FILE, [vars(record) for record in kept + records])


def read_results(folder: Path) -> list[Record]:
    """The records of an evaluation's folder, or of a results.json. InputError if it isn't one."""
    path = folder / FILE if folder.is_dir() else folder
    try:
        return from_json(list[Record], read_json(path))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give the folder that evaluate.output named.") from None
    except Malformed as error:
        raise InputError(f"{path}: {error}.") from error


def logged_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """The samples of a task; none where no log is."""
    path = (folder if folder.is_dir() else folder.parent) / SAMPLES / f"{file_name(task)}.jsonl"
    if not path.is_file():
        return []
    try:
        samples = [json.loads(line) for line in path.read_bytes().splitlines()]
    except ValueError as error:
        raise InputError(f"{path}: no JSON lines ({error}).") from error
    if not all(isinstance(sample, Mapping) and isinstance(sample.get("metrics"), Mapping) for sample in samples):
        raise InputError(f"{path}: a line isn't a sample.")
    return samples


def file_name(task: str) -> str:
    """A task's name as a file's: `/` and the like become `_`."""
    return "".join(letter if letter.isalnum() or letter in "._-+=" else "_" for letter in task).lstrip(".") or "_"


def in_lines(results: Sequence[TaskOutcome]) -> list[str]:
    """A line for each figure that is a number."""
    return [
        f"{result.task}  {_shown(each)}  (n = {result.documents:,})" for result in results for each in result.measured
    ]


def _shown(measured: Measured) -> str:
    if isinstance(measured.value, dict):
        inside = ", ".join(f"{label} {_number(value)}" for label, value in measured.value.items())
        return f"{measured.metric}: {inside}"
    if not isinstance(measured.value, float):
        return f"{measured.metric}: {measured.value}"
    error = "" if measured.stderr is None else f" ± {measured.stderr:.4f}"
    between = "" if measured.low is None else f"  [{measured.low:.4f}, {measured.high:.4f}]"
    return f"{measured.metric} {measured.value:.4f}{error}{between}"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else json.dumps(value)
