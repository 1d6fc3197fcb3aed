"""Tasks by name: those of evaluate.task_dir first, then those that come with Banyan, then lm-evaluation-harness's."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import conf
from trainer.config import Evaluate
from trainer.errors import ConfigError, InputError
from trainer.evaluate.sandbox import open_sandbox
from trainer.evaluate.tasks.code import CodeTask
from trainer.evaluate.tasks.documents import CODE, DocumentTask
from trainer.evaluate.tasks.harness import EXTRA, Harness
from trainer.evaluate.tasks.request import Completion
from trainer.evaluate.tasks.task import TaskSet
from trainer.evaluate.tasks.task_file import TaskFile, is_task_file, read_code, read_task, read_task_file

OWN = Path(conf.__file__).parent / "task"
SHOWN = 12  # names in an error message


def open_tasks(settings: Evaluate, *, may_download: bool) -> list[TaskSet]:
    """The task sets of evaluate.tasks. ConfigError for a name that nobody knows, InputError for what can't be read."""
    if len(set(settings.tasks)) != len(settings.tasks):
        twice = next(name for name in settings.tasks if settings.tasks.count(name) > 1)
        raise ConfigError(f"evaluate.tasks: {twice} is named twice.")
    folder = _folder(settings.task_dir)
    files = _own_files(folder)
    own = [name for name in settings.tasks if name in files]
    rest = [name for name in settings.tasks if name not in files]
    found: list[TaskSet] = [_open_file(read_task_file(files[name]), settings) for name in own]
    if rest:
        found.append(_open_harness(rest, folder, files, settings, may_download=may_download))
    return found


def _folder(task_dir: str | None) -> Path | None:
    if task_dir is None:
        return None
    folder = Path(task_dir).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"evaluate.task_dir={task_dir}: there is no such folder.")
    return folder


def _own_files(folder: Path | None) -> dict[str, Path]:
    """Task files by name; those of the user's folder go before ours."""
    files = {path.stem: path for path in sorted(OWN.glob("*.yaml"))}
    for path in sorted([*folder.glob("**/*.yaml"), *folder.glob("**/*.yml")]) if folder else []:
        if not path.name.startswith("_") and is_task_file(path):
            files[_name_of(path)] = path
    return files


def _name_of(path: Path) -> str:
    """What a task file calls itself, so that it is found by that; a broken one is found by its file's name."""
    try:
        return read_task_file(path).task
    except (InputError, ConfigError):
        return path.stem


def _open_file(task: TaskFile, settings: Evaluate) -> TaskSet:
    limit = settings.task_documents or None
    if task.kind == CODE:
        limits = settings.sandbox_seconds, settings.sandbox_memory_mib
        sandbox = open_sandbox(settings.sandbox, *limits, task.task)
        programs = read_code(task)
        completion = Completion("", tuple(task.until), task.max_tokens, float(task.temperature), float(task.top_p))
        return CodeTask(
            task.task,
            task.version,
            task.metrics,
            programs[:limit],
            task.samples,
            completion,
            str(task.program),
            str(task.path),
            sandbox,
            len(programs),
        )
    documents = read_task(task, 0)
    return DocumentTask(
        task.task,
        task.version,
        task.kind,
        task.metrics,
        documents[:limit],
        tuple(task.until),
        task.max_tokens,
        len(documents),
    )


def _open_harness(
    names: list[str], folder: Path | None, files: dict[str, Path], settings: Evaluate, *, may_download: bool
) -> TaskSet:
    if find_spec("lm_eval") is None:
        _refuse(names[0], list(files), f"; if it is one of lm-evaluation-harness, {EXTRA}")
    folders = [folder] if folder else []
    harness = Harness(folders, may_download=may_download, defaults=False) if folder else None
    if harness is None or any(name not in harness.names for name in names):  # theirs are 14,000 files to look through
        harness = Harness(folders, may_download=may_download)
    for name in names:
        if name not in harness.names:
            _refuse(name, [*files, *harness.names], "")
    return harness.open(names, settings.task_documents)


def _refuse(name: str, known: Sequence[str], more: str) -> None:
    near = get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known[:SHOWN])}, …"
    raise ConfigError(f"evaluate.tasks: {name}: no such task{more}; {hint}")
