"""Banyan's stages of preparing, each on all documents, and the bare encoders that they are held against.

python -m tests.benchmarks.contestants.preparing FILE.jsonl TOKENIZER.json FOLDER PEER_DOCUMENTS, then stages.py's lines
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from launch.compose import compose
from tests.benchmarks.contestants.stages import FILTERS, serve
from trainer.data.clean.document import CleanedDocument, Counted
from trainer.data.clean.stages import BUILD
from trainer.data.text import workers
from trainer.data.text.workers import Map
from trainer.data.tokens.encoder import Encoder
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.verbs import prepare

CLEAN = (  # what datatrove_stages.py sets: values that technical documents pass
    "clean=fineweb",
    f"data.clean.stages=[{','.join(FILTERS)}]",
    "data.clean.gopher_quality.lowest_alphabetic_words=0.5",
    "data.clean.c4.curly_brackets=false",
    "data.clean.fineweb_quality.lowest_terminal_lines=0.05",
    "data.clean.fineweb_quality.highest_short_lines=0.95",
    "data.clean.fineweb_quality.highest_duplicate_characters=0.3",
    "data.clean.fineweb_quality.highest_newlines=1",
)
NEAR = ("SignBucket", "FindCandidates", "ComparePairs", "FindClusters")


def timed(seconds: Counter[str]) -> Map:
    """The map of one process, which adds the CPU seconds of each kind of work."""

    def map_items(work: Any, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            begun = process_time()
            result = work(item)
            seconds[type(work).__name__] += process_time() - begun
            yield result

    return map_items


def prepared(arguments: list[str]) -> Counter[str]:
    """CPU seconds of a whole prepare, by kind of work."""
    seconds: Counter[str] = Counter()
    prepare.in_process = timed(seconds)  # the stages that aren't spread
    try:
        assert prepare.main(compose("prepare", arguments), timed(seconds)) == 0
    finally:
        prepare.in_process = workers.in_process
    return seconds


def main(file: Path, tokenizer: Path, folder: Path, peer_documents: int) -> None:
    """Loads the documents, then serves. The bare loop of `tokenizers` gets the first `peer_documents` of them."""
    texts = [json.loads(line)["text"] for line in file.open()]
    given = folder / "documents.jsonl"
    given.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    clean = compose("prepare", ["data.input=x", "data.output=y", *CLEAN]).data.clean
    stages = {name: BUILD[name](clean) for name in FILTERS}
    loaded = load_tokenizer(tokenizer)
    fast, slow = Encoder(loaded, "gigatoken"), loaded.engine
    end, dtype = loaded.end_of_text_id, np.dtype(loaded.dtype)

    def command(name: str, *more: str) -> list[str]:
        shutil.rmtree(folder / name, ignore_errors=True)
        settings = ("data.workers=1", "data.validation_fraction=0", f"data.tokenizer.path={tokenizer}")
        return [f"data.input={given}", f"data.output={folder / name}", *settings, *more]

    def filtered(name: str) -> int:
        stage = stages[name]
        return sum(stage(CleanedDocument(Counted(text, clean.words))) is None for text in texts)

    def part_of_prepare(*works: str, arguments: tuple[str, ...] = ()) -> Callable[[], dict[str, float]]:
        """A stage that is told of by a whole prepare: its seconds are those of some kinds of work."""

        def run() -> dict[str, float]:
            seconds = prepared(command("part", *arguments))
            return {"seconds": sum(seconds[work] for work in works)}

        return run

    def whole() -> int:
        prepared(command("whole", *CLEAN, "data.near_duplicates=true"))
        return read_manifest(folder / "whole" / "train").tokens

    def bare() -> int:
        """A loop that encodes and writes an array."""
        tokens = 0
        with open(folder / "bare.bin", "wb") as written:
            for text in texts[:peer_documents]:
                ids = slow.encode(text, add_special_tokens=False).ids
                written.write(np.append(ids, end).astype(dtype).tobytes())
                tokens += len(ids) + 1
        return tokens

    def gigatoken_alone() -> int:
        """What gigatoken itself takes for the ids, and nothing else."""
        encoder: Any = fast._fast
        return sum(len(encoder.encode(text.encode())) + 1 for text in texts)

    serve(
        {
            "read": part_of_prepare("Collect"),
            "near-duplicates": part_of_prepare(*NEAR, arguments=("data.near_duplicates=true",)),
            "tokenise": part_of_prepare("MakeShard"),
            "tokens": lambda: read_manifest(folder / "part" / "train").tokens,
            "whole": whole,
            "encode": lambda: sum(len(piece) for text in texts for piece in fast.encode(text.encode())) + len(texts),
            "bare tokenizers": bare,
            "gigatoken alone": gigatoken_alone,
        }
        | {name: lambda name=name: filtered(name) for name in FILTERS}
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:]))
