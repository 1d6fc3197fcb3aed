"""What is known of a run, for the card of its model. What can't be read, or is of other weights, is left out."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import Pretrain
from trainer.data.tokens.manifest import FILE, read_manifest
from trainer.errors import InputError
from trainer.machine.json_file import read_json
from trainer.report.data_card.gather import stated_language
from trainer.track.energy import FILE as ENERGY
from trainer.track.energy import energy_in_words, read_account
from trainer.track.lineage import read_references
from trainer.track.sinks.journal import read_metrics

MOST_RESULTS = 1000
RESULTS = ("evaluations", "step-{step:08d}", "results.json")  # where `banyan evaluate` leaves what tasks gave


@dataclass(frozen=True)
class SourceFacts:
    """An input of prepare, as its manifest states it."""

    input: str
    licence: str | None
    language: str | None
    files: int


@dataclass(frozen=True)
class DataFacts:
    """Prepared data. `fingerprints` are by manifest; `sources` is None where the manifest is gone or another by now."""

    name: str
    documents: int
    tokens: int
    fingerprints: dict[str, str]
    sources: list[SourceFacts] | None


@dataclass(frozen=True)
class TaskResult:
    """A figure of results.json; `stderr` and `n` where it states them."""

    task: str
    version: str
    metric: str
    value: float
    stderr: float | None
    interval: tuple[float, float] | None
    n: int | None


@dataclass(frozen=True)
class RunFacts:
    """A run at the step that is exported.

    `losses` are (set, loss, bits per byte), `measures` what else was logged of a set: (set, name, value).
    """

    run: Pretrain
    step: int
    tokens: int
    parameters: int | None
    device: str | None
    world_size: int | None
    packages: dict[str, str]
    data: list[DataFacts]
    losses: list[tuple[str, float, float | None]]
    results: list[TaskResult]
    measures: list[tuple[str, str, float]] = field(default_factory=list)
    energy: str | None = None


def gather_facts(run_dir: Path, run: Pretrain, state: dict[str, Any], *, as_trained: bool) -> RunFacts:
    """Reads a run directory. Losses and results only where the weights are those of the step (`as_trained`)."""
    facts, environment = (_object(run_dir / name) for name in ("facts.json", "environment.json"))
    packages, device = environment.get("packages"), facts.get("device")
    return RunFacts(
        run=run,
        step=state["step"],
        tokens=state["tokens"],
        parameters=_count(facts.get("parameters")),
        device=device if isinstance(device, str) else None,
        world_size=_count(facts.get("world_size")),
        packages={k: v for k, v in packages.items() if isinstance(v, str)} if isinstance(packages, dict) else {},
        data=_data(facts),
        losses=_losses(run_dir, state["step"]) if as_trained else [],
        results=_results(run_dir, state["step"]) if as_trained else [],
        measures=_measures(run_dir, state["step"]) if as_trained else [],
        energy=_energy(run_dir, run),
    )


def _energy(run_dir: Path, run: Pretrain) -> str | None:
    account = read_account(run_dir / ENERGY)
    return energy_in_words(account, run.track.energy) if account else None


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _data(facts: dict[str, Any]) -> list[DataFacts]:
    try:
        references = read_references(facts)
    except ValueError:
        return []
    return [
        DataFacts(each.name, each.documents, each.tokens, each.fingerprints, _sources(each.folder, each.fingerprints))
        for each in references
    ]


def _sources(folder: str, fingerprints: dict[str, str]) -> list[SourceFacts] | None:
    found: dict[str, SourceFacts] = {}
    for path, fingerprint in fingerprints.items():
        try:
            manifest = read_manifest(Path(folder) / path.removesuffix(FILE))
        except (InputError, OSError):
            return None
        if manifest.fingerprint != fingerprint:
            return None
        for group in manifest.sources:
            language = stated_language(manifest, group)
            found[group.input] = SourceFacts(group.input, group.licence, language, len(group.files))
    return list(found.values())


def _logged(run_dir: Path, step: int) -> dict[str, Any]:
    try:
        rows = [row for row in read_metrics(run_dir) if row.get("step") == step]
    except (InputError, OSError):
        return {}
    return {key: value for row in rows for key, value in row.items()}


def _measures(run_dir: Path, step: int) -> list[tuple[str, str, float]]:
    values = _logged(run_dir, step)
    sets = [key[5:-5] for key in values if key.startswith("eval/") and key.endswith("/loss")]
    return [
        (name, key.removeprefix(f"eval/{name}/"), number)
        for name in sets
        for key, value in values.items()
        if key.startswith(f"eval/{name}/") and key != f"eval/{name}/loss" and (number := _number(value)) is not None
    ]


def _losses(run_dir: Path, step: int) -> list[tuple[str, float, float | None]]:
    values, found = _logged(run_dir, step), []
    for key, value in values.items():
        loss = _number(value)
        if key.startswith("eval/") and key.endswith("/loss") and loss is not None:
            found.append((key[5:-5], loss, _number(values.get(f"{key[:-5]}/bits_per_byte"))))
    return found


def _results(run_dir: Path, step: int) -> list[TaskResult]:
    path = run_dir.joinpath(*(part.format(step=step) for part in RESULTS))
    try:
        records = read_json(path)
    except (OSError, ValueError):
        return []
    found = []
    for each in records[:MOST_RESULTS] if isinstance(records, list) else []:
        if not isinstance(each, dict) or each.get("step", step) != step:
            continue
        names, value = (each.get("task"), each.get("metric")), _number(each.get("value"))
        if all(isinstance(name, str) for name in names) and value is not None:
            numbers = [_number(end) for end in each["interval"]] if isinstance(each.get("interval"), list) else []
            interval = (numbers[0], numbers[1]) if len(numbers) == 2 and None not in numbers else None
            version, error, n = str(each.get("version", "")), _number(each.get("stderr")), _count(each.get("n"))
            found.append(TaskResult(str(names[0]), version, str(names[1]), value, error, interval, n))  # type: ignore[arg-type]
    return found
