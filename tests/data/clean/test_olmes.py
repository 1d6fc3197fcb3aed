"""Decontamination with the requests of real evaluations: every planted question is found, and nothing else."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from tests.data.clean.documents import english_documents
from trainer.config.clean import Contamination
from trainer.data.clean.contamination import ContaminationStage
from trainer.data.clean.document import CleanedDocument, Counted
from trainer.data.clean.plain_words import plain_words

HERE = Path(__file__).parents[2]
SETS = {  # a task's requests: the field of its documents that is planted
    "arc_challenge/test_mc_5shot": "query",
    "gsm8k/gold_bpb_5shot": "question",
    "boolq/rc_0shot": "query",
    "codex_humaneval/gold_bpb_0shot": "prompt",
    "hellaswag/val_mc_5shot": "query",
}
PLANTS = 100  # of each set
WORDS = 13


@pytest.fixture(scope="module")
def requests():
    script = HERE / "peers" / "olmes.sh"
    done = subprocess.run(
        [script], stdout=subprocess.PIPE, text=True, check=True, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    )
    return Path(done.stdout.strip())


def questions(path: Path, field: str) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found = {json.loads(line)["doc"][field] for line in file}
    return sorted(text for text in found if len(plain_words(text)) >= WORDS)


def verdict(stage: ContaminationStage, text: str):
    return stage(CleanedDocument(Counted(text, "spaces")))


@pytest.mark.full
def test_every_planted_question_is_found_and_named(requests):
    paths = {task: requests / task / "requests.jsonl.gz" for task in SETS}
    stage = ContaminationStage(Contamination(files=[str(path) for path in paths.values()], words=WORDS))
    draw = random.Random(1)
    clean = [text for text in english_documents(400, seed=8) if len(text) > 200]
    clean += [path.read_text(encoding="utf-8") for path in sorted((HERE.parent / "docs").glob("*.md"))]
    clean += [path.read_text(encoding="utf-8") for path in sorted((HERE.parent / "trainer").rglob("*.py"))]
    assert [text[:80] for text in clean if verdict(stage, text) is not None] == []
    for task, field in SETS.items():
        asked = draw.sample(questions(paths[task], field), PLANTS)
        missed = []
        for question in asked:
            words = question.upper().split() if draw.random() < 0.5 else question.split()
            planted = draw.choice([" ", "\n", "  ", "\t"]).join(words)
            text = draw.choice(clean)
            place = text.find(" ", draw.randrange(len(text))) % len(text)
            found = verdict(stage, f"{text[:place]} {planted} {text[place:]}")
            missed += [question] if found is None or found.detail not in map(str, paths.values()) else []
        assert missed == []
