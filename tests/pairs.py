"""Preferences for tests: a base model of plain text, and pairs of answers that it doesn't know to tell apart."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.corpus import WORDS, write_texts
from tests.prepared import prepare, write_jsonl
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config import Pretrain, TokenizerSettings


def write_pairs(path: Path, count: int, *, seed: int = 0, ends: tuple[str, str] = ("", "")) -> Path:
    """Records of which the chosen answer begins with "the" and the rejected one with "red"; they end in `ends`."""
    draw = random.Random(seed)

    def words(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    records = [
        {
            "prompt": f"{words(4)} {number}?",
            "chosen": f" the {words(5)}{ends[0]}",
            "rejected": f" red {words(6)}{ends[1]}",
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def make_base(folder: Path) -> tuple[Path, Path]:
    """Prepared texts, and a run on them."""
    text = prepare(write_jsonl(folder / "text.jsonl", write_texts(80)), folder / "text")
    assert run_ranks(pretrain, small_config(text, folder / "base", train__steps=6), 1) == [0]
    return text, folder / "base"


def prepare_pairs(source: Path, output: Path, text: Path, **data: Any) -> Path:
    """Pairs by the tokenizer of the prepared texts."""
    return prepare(source, output, format="preference", tokenizer=TokenizerSettings(path=str(text)), **data)


def preference_config(data: Path, base: Path, run_dir: Path, **changes: Any) -> Pretrain:
    """A run of seconds from `base` over pairs."""
    settings = {
        "objective__name": "dpo",
        "model__init_from": str(base),
        "data__packing": "whole",
        "data__long_documents": "reject",
        "data__sequence_length": 96,
        "train__steps": 6,
        "train__micro_batch_size": 2,
        "optimizer__lr": 1e-3,
        **changes,
    }
    return small_config(data, run_dir, **settings)
