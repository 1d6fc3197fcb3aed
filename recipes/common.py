"""Records, figures of a run, and the table at the end of a recipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def write_records(path: str, records: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, in the folder of the recipe; a file that has them already stays as it is."""
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    if not Path(path).is_file() or Path(path).read_bytes() != content:
        Path(path).write_bytes(content)


def read_records(path: str) -> list[Record]:
    """Of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def split(records: Sequence[Record], held_out: int) -> None:
    """Writes train.jsonl, and as test.jsonl the last `held_out` of them, without those that were in the former."""
    known = {json.dumps(record) for record in records[:-held_out]}
    write_records("train.jsonl", records[:-held_out])
    write_records("test.jsonl", [record for record in records[-held_out:] if json.dumps(record) not in known])


def figure(run_dir: str, name: str) -> float:
    """The last value that a run logged under a name, such as eval/test/f1_macro."""
    rows = read_records(f"{run_dir}/metrics.jsonl")
    return float(next(row[name] for row in reversed(rows) if name in row))


def figure_of_task(task: str, metric: str, folder: str = "judged") -> float:
    """What `banyan evaluate evaluate.tasks=…` wrote to results.json."""
    records = json.loads(Path(f"{folder}/results.json").read_text("utf-8"))
    return next(float(each["value"]) for each in records if (each["task"], each["metric"]) == (task, metric))


def answers(path: str = "answers.jsonl") -> list[str]:
    """What `banyan generate` wrote, in the order of the prompts."""
    return [str(record["answer"]) for record in read_records(path)]


def show_texts(prompts: Sequence[str], texts: Sequence[str], count: int = 3) -> None:
    """The first prompts, and what the model made of them."""
    for prompt, text in list(zip(prompts, texts, strict=True))[:count]:
        print(f"{prompt}\n→  {text}")


def show(metrics: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
    """A table: a line for the model and each baseline, a column for each metric."""
    print(f"\n{'':30}" + "".join(f"{metric:>14}" for metric in metrics))
    for name, values in rows.items():
        print(f"{name:30}" + "".join(f"{value:14.4f}" for value in values))


def main(make: Callable[[], None], compare: Callable[[], None]) -> None:
    """`python -m recipes.NAME make|compare`."""
    steps = {"make": make, "compare": compare}
    if len(sys.argv) != 2 or sys.argv[1] not in steps:
        sys.exit(f"usage: {Path(sys.argv[0]).stem} make|compare")
    steps[sys.argv[1]]()
