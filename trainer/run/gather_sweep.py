"""What a page says of a sweep or a ladder: its trials' curves, the table of results, what mattered, the fitted law."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.machine.json_file import Malformed, from_json, read_json, read_regular
from trainer.report.frame import note, section
from trainer.report.markup import Content, Markup, element, table
from trainer.report.run_page.record import RunRecord
from trainer.run.gather_run import gather_run
from trainer.run.run_folders import find_runs

RESULTS = "results.json"
PICTURES = ("ladder.png", "sweep.png")
MOST_PICTURE_BYTES = 4 << 20
MOST_TRIALS = 200  # whose curves are drawn
MOST_ROWS = 2000
NO_COLUMNS = ("run_dir", "error")


@dataclass(frozen=True)
class SweepRecord:
    """A sweep, as a page has it."""

    title: str
    runs: list[RunRecord]
    sections: list[Markup]


def gather_sweep(folder: Path, *, say: Callable[[str], None]) -> SweepRecord:
    """The record of a sweep; trials that haven't begun have no curves. InputError where none has."""
    runs = []
    for run_dir in find_runs([str(folder)])[:MOST_TRIALS]:
        try:
            run = gather_run(run_dir, in_full=False, say=say)
        except InputError as error:
            say(f"banyan: {error} Left out.")
            continue
        parts = run_dir.relative_to(folder).parts
        trial = next((part for part in parts if part.isdigit()), run.name)
        segment = next((part for part in parts if part.startswith("segment")), "")
        runs.append(replace(run, name=" ".join(filter(None, (f"trial {trial}", segment)))))
    if not runs:
        raise InputError(f"{folder}: no trial has begun; wait, or look at the sweep's log.")
    results = _results(folder, say)
    return SweepRecord(folder.resolve().name, runs, [*_pictures(folder), *_tables(results)])


def _results(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    try:
        return from_json(dict[str, Any], read_json(folder / RESULTS))
    except FileNotFoundError:
        return {}
    except Malformed as error:
        say(f"banyan: {folder / RESULTS}: {error}; left out")
        return {}


def _pictures(folder: Path) -> Iterator[Markup]:
    for name in PICTURES:
        try:
            content = read_regular(folder / name, most_bytes=MOST_PICTURE_BYTES)
        except (OSError, Malformed):
            continue
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        picture = element("img", {"src": source, "alt": f"Picture of the {name[:-4]}", "style": "max-width:100%"})
        yield section(name[:-4].capitalize(), element("div", {"class": "scroll"}, picture))


def _tables(results: dict[str, Any]) -> Iterator[Markup]:
    law = results.get("ladder")
    if isinstance(law, dict) and law:
        yield section("Scaling law", _flat(law))
    importance = results.get("importance")
    if isinstance(importance, dict) and importance:
        yield section("What mattered", _flat(importance), note("PED-ANOVA: each key's share."))
    trials = [trial for trial in results.get("trials", []) if isinstance(trial, dict)]
    if not trials:
        yield section("Trials", note("The sweep goes on: it writes its table at its end."))
        return
    trials.sort(key=lambda trial: _order(trial.get("loss")))
    columns = [key for key in dict.fromkeys(key for trial in trials for key in trial) if key not in NO_COLUMNS]
    rows: list[list[Content]] = [[_text(trial.get(key)) for key in columns] for trial in trials[:MOST_ROWS]]
    yield section("Trials, the best first", table([element("code", None, key) for key in columns], rows, texts=2))


def _flat(values: dict[str, Any]) -> Iterator[Markup]:
    """Values by key: what is plain in a table of two columns, each other one in a table of its own."""
    nested = {key: _records(value) for key, value in values.items()}
    plain = [[element("code", None, key), _text(values[key])] for key, records in nested.items() if not records]
    if plain:
        yield table(["", ""], plain, texts=2)
    for key, records in nested.items():
        if records:
            columns = list(dict.fromkeys(column for record in records for column in record))
            rows = [[_text(record.get(column)) for column in columns] for record in records[:MOST_ROWS]]
            yield element("h3", None, str(key).replace("_", " "))
            yield table([column.replace("_", " ") for column in columns], rows, cards=True)


def _records(value: Any) -> list[dict[str, Any]]:
    """The rows of a list of objects, of an object of objects, or of an object; none of anything else."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return value
    if isinstance(value, dict) and value:
        inner = [{"": key, **each} for key, each in value.items() if isinstance(each, dict)]
        return inner if len(inner) == len(value) else [value]
    return []


def _order(loss: Any) -> float:
    return float(loss) if isinstance(loss, int | float) else float("inf")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if type(value) is int:
        return f"{value:,}"
    if isinstance(value, list) and len(value) == 2 and all(isinstance(each, int | float) for each in value):
        return f"{_text(value[0])} to {_text(value[1])}"
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)[:400]
