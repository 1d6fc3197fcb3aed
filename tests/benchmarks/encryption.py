"""`python -m tests.benchmarks.encryption`: what encrypted shards cost to write, and to read rows of.

python -m tests.benchmarks.encryption [--rounds 5] [--tiny]

The same random tokens are in plain and in encrypted shards, in the page cache. Rows of 1,025 tokens are gathered from
random places, a batch of 16 at a time. Seconds are those of one core that the process had, however busy the machine is;
the share of a step is that of rows for a million tokens a second.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.benchmarks.tokens import write_tokens
from tests.keys import using, write_key
from trainer.data.tokens.manifest import read_manifest, write_manifest
from trainer.data.tokens.shards import Shards
from trainer.machine.durable import write_bytes
from trainer.machine.sealed_folder import seal_folder
from trainer.machine.sealing.plaintext import read_plaintext, stored_sha256

LENGTH, ROWS, VOCABULARY, SHARDS = 1025, 16, 32000, 4
PACE = 1e6  # tokens a second


def encrypt(source: Path, folder: Path) -> None:
    """Writes the shards in `source` encrypted, into folder/shards."""
    keys = seal_folder(folder).keys
    target, manifest = folder / "shards", read_manifest(source)
    (target / "tokenizer").mkdir(parents=True)
    for path in source.rglob("*.*"):
        if path.is_file() and path.name != "manifest.json":
            write_bytes(target / path.relative_to(source), path.read_bytes())
    shards = tuple(
        replace(
            shard,
            bytes=(target / shard.file).stat().st_size,
            sha256=stored_sha256(target / shard.file),
            plain=shard.content,
        )
        for shard in manifest.shards
    )
    write_manifest(replace(manifest, folder=target, shards=shards, encryption=keys))


def measured(work: Callable[[], object], rounds: int) -> float:
    """Median seconds of the processor in some rounds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


def gather(folder: Path, batches: int) -> None:
    """Gathers rows of random places, shard by shard, as a loader's micro-batches are."""
    draw, shards = np.random.default_rng(0), Shards(read_manifest(folder))
    for batch in range(batches):
        shard = shards[batch % len(shards)]
        shard.gather(draw.integers(0, shard.tokens - LENGTH, ROWS), LENGTH)


def measure(folder: Path, content: bytes, *, batches: int, rounds: int) -> dict[str, float]:
    """Megabytes a second of a file that is written durably, and read; and rows a second."""
    file, megabytes = folder / "file", len(content) / 1e6
    written = measured(lambda: write_bytes(file, content), rounds)
    read = measured(lambda: read_plaintext(file), rounds)
    gather(folder / "shards", batches)  # once, so that all are in the page cache
    rows = ROWS * batches / measured(lambda: gather(folder / "shards", batches), rounds)
    return {
        "write MB/s": megabytes / written,
        "read MB/s": megabytes / read,
        "rows/s": rows,
        "share of a step at 1M tokens/s": PACE / (LENGTH - 1) / rows,
    }


def main() -> None:
    """Measures both, and prints what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    tokens, size, batches = (2**18, 2**20, 8) if given.tiny else (2**25, 2**27, 256)
    found = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        key = write_key(Path(scratch) / "key")
        for name in ("plain", "encrypted"):
            folder = Path(scratch) / name
            folder.mkdir()
            with using(key if name == "encrypted" else None):
                if name == "plain":
                    write_tokens(folder, vocab_size=VOCABULARY, tokens=tokens, shards=SHARDS)
                else:
                    encrypt(Path(scratch) / "plain" / "shards", folder)
                found[name] = measure(folder, secrets.token_bytes(size), batches=batches, rounds=given.rounds)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
