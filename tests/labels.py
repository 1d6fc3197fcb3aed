"""Configurations of small Hugging Face models that aren't causal, and records with labels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.prepared import prepare
from tests.run_ranks import small_config
from trainer.config import Model, Pretrain, TokenizerSettings, TokenizerTrain

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
T5 = {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
BART = {
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "activation_dropout": 0.0,
    "max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {**SIZES, **OFF, "max_position_embeddings": 64},
    "roberta": {**SIZES, **OFF, "max_position_embeddings": 66},
    "modernbert": {**SIZES, "max_position_embeddings": 64, "global_attn_every_n_layers": 2, "local_attention": 16},
    "t5": {**T5, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
    "bart": BART,
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    | {"embd_pdrop": 0.0},
}


def write_config(folder: Path, kind: str, *, vocab_size: int = 320) -> Path:
    """A folder with the config.json of a small model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": vocab_size, **KINDS[kind]}))
    return folder


def configure(data: Path, run_dir: Path, folder: Path, objective: str, **changes: Any) -> Pretrain:
    """A run of a few steps."""
    packing = "single" if objective in ("classify", "tag") else "stream"
    settings = {"objective__name": objective, "data__packing": packing, "train__steps": 4, **changes}
    config = small_config(data, run_dir, **settings)
    config.model = Model(name="theirs", path=str(folder), overrides=dict(config.model.overrides))
    return config


def tokenizer_of(size: int) -> TokenizerSettings:
    """One of `size` tokens, trained on the input."""
    return TokenizerSettings(train=TokenizerTrain(vocab_size=size))


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def labelled(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with a word that gives the label away."""
    draw, words = random.Random(seed), {"good": ["lovely", "great", "nice"], "bad": ["awful", "sad"]}
    records = []
    for number in range(count):
        label = draw.choice(list(words))
        text = f"the {draw.choice(['day', 'tree', 'river'])} {number} was {draw.choice(words[label])} for birds"
        records.append({"text": text, "label": label})
    return records


def tagged(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences with names and places of one word or two."""
    draw, records = random.Random(seed), []
    for number in range(count):
        place = draw.choice(["Paris", "New York"]).split()
        words = [draw.choice(["Anna", "Bert"]), "went", "to", *place, "on", "day", str(number)]
        tags = ["B-PER", "O", "O", "B-LOC", *["I-LOC"] * (len(place) - 1), "O", "O", "O"]
        records.append({"tokens": words, "tags": tags})
    return records


def copies(count: int, seed: int = 0, longest: int = 4, letters: str = "abcdef") -> list[dict[str, Any]]:
    """Letters to be written again."""
    draw, records = random.Random(seed), []
    for _ in range(count):
        text = " ".join(draw.choices(letters, k=draw.randint(1, longest)))
        records.append({"source": text, "target": text})
    return records


def prepared(folder: Path, kind: str, records: list[dict[str, Any]], **settings: Any) -> Path:
    """An output of prepare, with a fifth for validation."""
    folder.mkdir(parents=True, exist_ok=True)
    source = write_records(folder / "records.jsonl", records)
    changes = {"format": kind, "validation_fraction": 0.2, "tokenizer": tokenizer_of(300), "deduplicate": False}
    return prepare(source, folder / "data", **changes | settings)
