"""Runs of `banyan evaluate` with tasks, and lm-evaluation-harness's own backend beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trainer.config import EvaluateVerb


def evaluate(config: EvaluateVerb) -> int:
    """The verb, imported on the rank."""
    os.environ["HF_DATASETS_CACHE"] = str(Path(str(config.evaluate.output)).parent / "datasets")
    from trainer.verbs.evaluate import main

    return main(config)


def configure(output: Path, tasks: list[str], **changes: Any) -> EvaluateVerb:
    """A configuration; changes are of its section evaluate, but run_dir and path."""
    config = EvaluateVerb()
    run_dir, path = changes.pop("run_dir", None), changes.pop("path", None)
    config.run.dir, config.path = run_dir and str(run_dir), path and str(path)
    config.evaluate.tasks, config.evaluate.output = tasks, str(output)
    for name, value in changes.items():
        setattr(config.evaluate, name, value)
    return config


def results_in(output: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Records by task and metric."""
    return {(record["task"], record["metric"]): record for record in json.loads((output / "results.json").read_text())}


def samples_in(output: Path, task: str) -> list[dict[str, Any]]:
    """The samples of a task."""
    return [json.loads(line) for line in (output / "samples" / f"{task}.jsonl").read_text().splitlines()]


def theirs(argument: tuple[Path, Path, list[str], Path]) -> int:
    """lm-evaluation-harness's own `hf` backend on a folder, as JSON: (model, folder of tasks, names, output)."""
    model, folder, names, output = argument
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", DISABLE_MULTIPROC="1")
    os.environ["HF_DATASETS_CACHE"] = str(output.parent / "datasets")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=16)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=1000)
    assert found is not None
    kept = {"results": found["results"], "samples": found["samples"]}
    output.write_text(
        json.dumps(kept, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value))
    )
    return 0
