"""Task files of our own: YAML that says what to ask of records, or names frozen requests.

task: sms                       the file's name by default
version: 1
data: sms.jsonl                 JSON lines, beside this file; or requests: FILE or olmes:TASK/VARIANT
kind: choice                    choice (the likeliest of some), generate (text), loss (of given texts), or code
prompt: "Message: {{text}}\\nKind:"
choices: [harmless, spam]       or the name of a field that holds a list
target: label                   a field, or a template: which choice (by number or as text), or what is expected
metrics: [acc, f1_macro]
shots: 4                        examples before each prompt, drawn from shots_data with shots_seed
shots_data: sms-train.jsonl
shots_seed: 1234
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import InputError
from trainer.evaluate.metrics.metric import METRICS, find_metric
from trainer.evaluate.metrics.pass_at_k import tries_of
from trainer.evaluate.tasks.code import COMPLETION, CodeDocument
from trainer.evaluate.tasks.documents import CHOICE, CODE, GENERATE, KINDS, LOSS, Choice, TaskDocument
from trainer.evaluate.tasks.olmes import PREFIX, find_requests, read_frozen, read_frozen_records
from trainer.evaluate.tasks.records import read_records
from trainer.machine.json_file import Malformed, read_regular

MOST_BYTES = 2**20  # of a task file
MOST_TRIES = 1000  # completions of a document
DEFAULTS = {CHOICE: ["acc", "acc_norm"], GENERATE: ["exact_match"], LOSS: ["bits_per_byte"], CODE: ["pass@1"]}
NEEDED = {
    CHOICE: ("prompt", "choices", "target"),
    GENERATE: ("prompt", "target"),
    LOSS: ("target",),
    CODE: ("prompt", "program"),
}


@dataclass(frozen=True)
class TaskFile:
    """What a task file says; the fields are its keys."""

    task: str
    path: Path
    version: str = "1"
    kind: str = CHOICE
    data: str | None = None
    requests: str | None = None
    prompt: str | None = None
    choices: list[Any] | str | None = None
    target: str | None = None
    delimiter: str = " "
    metrics: list[str] = field(default_factory=list)
    shots: int = 0
    shots_data: str | None = None
    shots_seed: int = 1234
    shots_separator: str = "\n\n"
    until: list[str] = field(default_factory=lambda: ["\n"])
    max_tokens: int = 64
    program: str | None = None
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0

    @property
    def places(self) -> dict[str, Path]:
        """The files of its records."""
        named = {"data": self.data, "requests": self.requests, "shots_data": self.shots_data}
        return {
            key: find_requests(name.removeprefix(PREFIX), str(self.path))
            if name.startswith(PREFIX)
            else self.path.parent / name
            for key, name in named.items()
            if name is not None
        }


KINDS_OF_FIELDS: dict[str, tuple[type, ...]] = {
    "version": (str, int, float),
    "choices": (list, str),
    "metrics": (list,),
    "until": (list, str),
    "shots": (int,),
    "shots_seed": (int,),
    "max_tokens": (int,),
    "samples": (int,),
    "temperature": (int, float),
    "top_p": (int, float),
}
OF_CODE = ("program", "samples", "temperature", "top_p")  # keys of kind: code alone


def is_task_file(path: Path) -> bool:
    """Whether a YAML file is one of ours: those of lm-evaluation-harness have none of our keys."""
    try:
        text = read_regular(path, most_bytes=MOST_BYTES).decode("utf-8", "replace")
    except (OSError, Malformed):
        return False
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # of theirs that hold !function
        return "!function" not in text and "dataset_path" not in text and "doc_to_text" not in text
    if not isinstance(content, dict):
        return False
    theirs = {
        "dataset_path",
        "doc_to_text",
        "doc_to_target",
        "output_type",
        "group",
        "include",
        "custom_dataset",
        "class",
    }
    return not theirs & content.keys()


def read_task_file(path: Path) -> TaskFile:
    """A task file, checked. InputError names the file, and the key to mend."""
    try:
        content = yaml.safe_load(read_regular(path, most_bytes=MOST_BYTES).decode("utf-8"))
    except (OSError, Malformed, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({error}).") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: no YAML ({' '.join(str(error).split())[:200]}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: no mapping of keys to values.")
    known = [item.name for item in dataclasses.fields(TaskFile) if item.name != "path"]
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{path}: {key}: no such key; there are {', '.join(known)}.")
        kinds = KINDS_OF_FIELDS.get(key, (str,))
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InputError(
                f"{path}: {key}: {str(value)[:60]!r} isn't {' or '.join(kind.__name__ for kind in kinds)}."
            )
    if isinstance(content.get("until"), str):
        content["until"] = [content["until"]]
    content["version"] = str(content.get("version", "1"))
    fields: dict[str, Any] = {"task": path.stem, **content}
    return _checked(TaskFile(path=path, **fields))


def _checked(task: TaskFile) -> TaskFile:
    where = str(task.path)
    _require(task.kind in KINDS, f"{where}: kind: {task.kind}: choose one of {', '.join(KINDS)}.")
    _require(
        (task.data is None) != (task.requests is None),
        f"{where}: data, requests: give one of them, a file of records or one of frozen requests.",
    )
    if task.data is not None or task.kind == CODE:
        for key in NEEDED[task.kind]:
            _require(getattr(task, key) is not None, f"{where}: {key} is missing; kind: {task.kind} needs it.")
    else:
        _require(task.kind != GENERATE, f"{where}: kind: generate: frozen requests are scored; use choice or loss.")
        _require(task.shots == 0, f"{where}: shots: frozen requests have theirs already; leave it out.")
    _require(task.shots >= 0, f"{where}: shots: {task.shots}: 0 or more.")
    for key in OF_CODE if task.kind != CODE else ():
        _require(
            getattr(task, key) == getattr(TaskFile, key), f"{where}: {key}: kind: {task.kind} has none; leave it out."
        )
    if task.kind == CODE:
        _require(task.shots == 0, f"{where}: shots: kind: code has none; put examples into the prompt.")
        for key in ("choices", "target"):
            _require(
                getattr(task, key) is None, f"{where}: {key}: kind: code has none; its program says what is right."
            )
        _require(0 < task.samples <= MOST_TRIES, f"{where}: samples: {task.samples}: 1 to {MOST_TRIES:,}.")
        _require(0 <= task.temperature <= 100, f"{where}: temperature: {task.temperature}: 0 to 100.")
        _require(0 < task.top_p <= 1, f"{where}: top_p: {task.top_p}: above 0, up to 1.")
        _require(
            task.samples == 1 or task.temperature > 0,
            f"{where}: samples: {task.samples} of temperature 0 are all the same; give a temperature, such as 0.8.",
        )
    _require(task.max_tokens > 0, f"{where}: max_tokens: {task.max_tokens}: 1 or more.")
    _require(
        task.shots == 0 or task.shots_data is not None,
        f"{where}: shots_data is missing: examples must not come from what is judged; name a file with others.",
    )
    if not task.metrics:
        task = dataclasses.replace(task, metrics=DEFAULTS[task.kind])
    for name in task.metrics:
        _require(isinstance(name, str), f"{where}: metrics: {str(name)[:60]} is no name.")
        tries = tries_of(name)
        if task.kind == CODE or tries is not None:
            _require(
                task.kind == CODE and tries is not None,
                f"{where}: metrics: {name}: kind: code has pass@k, others don't.",
            )
            _require(
                tries is not None and tries <= task.samples,
                f"{where}: metrics: {name}: needs samples: {tries} or more, not {task.samples}.",
            )
            continue
        metric = find_metric(name, f"{where}: metrics")
        fits = {
            CHOICE: metric.kind in ("value", "labels", "confidence", "likelihood"),
            GENERATE: metric.kind in ("texts", "labels") or name == "exact_match",
            LOSS: metric.kind == "likelihood",
        }[task.kind]
        kinds = ", ".join(each for each, known in METRICS.items() if known.kind == "likelihood")
        _require(
            fits,
            f"{where}: metrics: {name} isn't for kind: {task.kind}{f'; use {kinds}' if task.kind == LOSS else ''}.",
        )
    for key, path in task.places.items():
        _require(path.is_file(), f"{where}: {key}: {path}: there is no such file.")
    return task


def read_task(task: TaskFile, limit: int) -> list[TaskDocument]:
    """Its documents, the first `limit` (0: all). InputError names the record that doesn't fit the file."""
    places = task.places
    if task.requests is not None:
        return [_frozen(task, record) for record in read_frozen(places["requests"])[: limit or None]]
    records = read_records(places["data"], str(task.path))[: limit or None]
    before = ""
    if task.shots > 0:
        examples = read_records(places["shots_data"], str(task.path))
        _require(
            len(examples) >= task.shots,
            f"{task.path}: shots: {task.shots}, but {places['shots_data']} holds {len(examples)} records.",
        )
        drawn = random.Random(task.shots_seed).sample(examples, task.shots)
        shown = [_read(task, record, f"{places['shots_data']}: an example", "") for record in drawn]
        before = "".join(f"{document.prompt}{document.shown}{task.shots_separator}" for document in shown)
    return [
        dataclasses.replace(_read(task, record, f"{places['data']}, record {number}", before), number=number - 1)
        for number, record in enumerate(records, 1)
    ]


def read_code(task: TaskFile) -> list[CodeDocument]:
    """The documents of a task of kind code. InputError names the record that doesn't fit the file."""
    from trainer.evaluate.tasks.template import fill_template

    places = task.places
    records = read_frozen_records(places["requests"]) if task.requests else read_records(places["data"], str(task.path))
    documents = []
    for number, record in enumerate(records, 1):
        where = f"{task.path}: record {number}"
        fill_template(str(task.program), record | {COMPLETION: ""}, f"{where}: program")
        documents.append(CodeDocument(number - 1, fill_template(str(task.prompt), record, where), record))
    return documents


def _frozen(task: TaskFile, record: dict[str, Any]) -> TaskDocument:
    gold = record["gold"]
    choices = [
        Choice(context, continuation, continuation.removeprefix(" ")) for context, continuation in record["choices"]
    ]
    if task.kind == CHOICE and gold is None:
        raise InputError(
            f"{task.path}: {task.requests}: document {record['doc_id']} has no right choice; use kind: loss."
        )
    twins = [Choice(context, continuation, "") for context, continuation in record["unconditional"]]
    return TaskDocument(record["doc_id"], choices=choices, gold=gold or 0, unconditional=twins)


def _read(task: TaskFile, record: dict[str, Any], where: str, before: str) -> TaskDocument:
    """A record's document. `before` are the examples that it comes after."""
    from trainer.evaluate.tasks.template import fill_template

    def text(template: str) -> str:
        return fill_template(template, record, f"{task.path}: {where}")

    prompt = before + (text(task.prompt) if task.prompt is not None else "")
    assert task.target is not None
    target = record[task.target] if task.target in record else text(task.target)
    if task.kind == LOSS:
        return TaskDocument(0, prompt=prompt, choices=[Choice(prompt, str(target), str(target))], shown=str(target))
    if task.kind == GENERATE:
        wanted = [str(each) for each in target] if isinstance(target, list) else [str(target)]
        _require(bool(wanted), f"{task.path}: {where}: target is an empty list.")
        return TaskDocument(0, prompt=prompt, wanted=wanted, shown=f"{task.delimiter}{wanted[0]}")
    names = _choices(task, record, where, text)
    gold = _gold(target, names, f"{task.path}: {where}")
    choices = [Choice(prompt, f"{task.delimiter}{name}", name) for name in names]
    return TaskDocument(0, prompt=prompt, choices=choices, gold=gold, shown=choices[gold].continuation)


def _choices(task: TaskFile, record: dict[str, Any], where: str, text: Callable[[str], str]) -> list[str]:
    if isinstance(task.choices, list):
        names = [text(str(choice)) for choice in task.choices]
    else:
        found = record.get(str(task.choices))
        _require(isinstance(found, list), f"{task.path}: {where}: choices: {task.choices} is no list there.")
        names = [str(choice) for choice in found or []]
    _require(len(names) > 1, f"{task.path}: {where}: choices: {len(names)} of them; two or more are needed.")
    _require(all(names), f"{task.path}: {where}: choices: one is empty.")
    return names


def _gold(target: Any, names: list[str], where: str) -> int:
    if isinstance(target, str) and target in names:
        return names.index(target)
    number = int(target) if str(target).isdecimal() and len(str(target)) < 9 else -1
    _require(
        not isinstance(target, bool) and 0 <= number < len(names),
        f"{where}: target: {str(target)[:60]!r} is neither a choice nor the number of one (0 to {len(names) - 1}).",
    )
    return number


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)
