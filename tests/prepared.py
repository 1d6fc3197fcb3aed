"""Runs of prepare on small inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.corpus import write_texts
from trainer.config import Data, Prepare, TokenizerSettings, TokenizerTrain
from trainer.verbs.prepare import main


def configure(inputs: list[Path] | Path, output: Path, *, seed: int = 0, **data: Any) -> Prepare:
    """A configuration for small inputs: several small shards and blocks, one process, no held-out documents."""
    settings: dict[str, Any] = {
        "validation_fraction": 0.0,
        "shard_bytes": 20_000,
        "block_tokens": 1000,
        "workers": 1,
        "tokenizer": TokenizerSettings(train=TokenizerTrain(vocab_size=300)),
    }
    paths = inputs if isinstance(inputs, list) else [inputs]
    return Prepare(seed=seed, data=Data(input=[str(path) for path in paths], output=str(output), **settings | data))


def prepare(inputs: list[Path] | Path, output: Path, **settings: Any) -> Path:
    """Runs prepare to its end and returns the output folder."""
    assert main(configure(inputs, output, **settings)) == 0
    return output


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    """A .jsonl file with a record for each text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"number": n, field: text}) + "\n" for n, text in enumerate(texts)))
    return path


def write_folder(folder: Path, count: int, *, seed: int = 0) -> Path:
    """A folder of .txt files."""
    folder.mkdir(parents=True)
    for number, text in enumerate(write_texts(count, seed=seed)):
        (folder / f"{number:04d}.txt").write_text(text)
    return folder


def shard_files(output: Path) -> dict[str, bytes]:
    """All that must be the same in two runs: shards, indices, tokenizer, manifests without time and command."""
    files = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    del files["plan.json"]
    for name in list(files):
        if name.endswith("manifest.json"):
            manifest = json.loads(files[name])
            del manifest["prepared"], manifest["sources"]
            files[name] = json.dumps(manifest).encode()
    return files
