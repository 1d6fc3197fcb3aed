"""`make bench-prepare`: MB of text per CPU-second of each stage of prepare, against datatrove and bare encoders.

python -m tests.benchmarks.prepare [--megabytes 12] [--peer-megabytes 2] [--rounds 3] [--text FILE.jsonl]

Both read the same documents (the kernel's documentation of tests/peers/corpora.sh unless --text names others), with the
same tokenizer of 16,384 tokens, trained on them; each is one process that stays up, and the stages are run in turn,
forwards and backwards. datatrove and the bare loop of `tokenizers`, whose time is proportional to the text from the
first megabyte on, get the first --peer-megabytes of them. CPU seconds are those of all threads of the process.
"tokenise" writes shards; "whole" is JSON lines → Gopher's, C4's and FineWeb's rules → MinHash → tokens on disk.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections import defaultdict
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.contestants.stages import FILTERS
from trainer.data.tokens.tokenizer import train_tokenizer
from trainer.data.tokens.training_text import TrainingText

ROOT = Path(__file__).parents[2]
SHARED = ("read", *FILTERS, "near-duplicates", "tokenise", "whole")  # of Banyan and datatrove
BARE = ("encode", "bare tokenizers", "gigatoken alone")  # of ids alone, without a shard
VOCABULARY = 2**14


class Contestant:
    """A process that runs stages when it is told to."""

    def __init__(self, stack: ExitStack, command: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        self._process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        )
        stack.callback(self._process.kill)

    def run(self, stage: str) -> tuple[float, Any]:
        """CPU seconds, and what the stage gave."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{stage}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{stage}: {' '.join(self._process.args)} has ended; run it by hand to see why")  # type: ignore[arg-type]
        told = json.loads(line)
        given = told["given"]
        return (given["seconds"], None) if isinstance(given, dict) else (told["seconds"], given)


def documents(megabytes: float) -> list[str]:
    """Documents of the kernel's documentation, about so many bytes."""
    script = ROOT / "tests" / "peers" / "corpora.sh"
    folder = Path(subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    found, size = [], 0
    for path in sorted((folder / "linux-doc").rglob("*.rst.gz")):
        text = gzip.decompress(path.read_bytes()).decode()
        if len(text) > 500 and size < megabytes * 1e6:
            found.append(text)
            size += len(text.encode())
    return found


def main(arguments: list[str] | None = None) -> None:
    """Takes turns, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=12)
    parser.add_argument("--peer-megabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", type=Path, help="JSON lines")
    parser.add_argument("--datatrove", type=Path, help="its Python; by default that of tests/peers/datatrove.sh")
    parser.add_argument("--output", type=Path, default=ROOT / "build/benchmarks")
    options = parser.parse_args(arguments)
    peer = options.datatrove or _datatrove()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        if options.text:
            texts = [json.loads(line)["text"] for line in options.text.open()]
        else:
            texts = documents(options.megabytes)
        ends = list(accumulate(len(text.encode()) / 1e6 for text in texts))
        count = min(len(texts), 1 + bisect_left(ends, options.peer_megabytes))
        sizes = {"banyan": ends[-1], "datatrove": ends[count - 1]}
        file = folder / "in" / "documents.jsonl"
        file.parent.mkdir()
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        training = TrainingText((text.encode() for text in texts), memory_bytes=2**30)
        train_tokenizer(training, vocab_size=VOCABULARY, name="bench").save(folder / "tokenizer")
        tokenizer = folder / "tokenizer" / "tokenizer.json"
        for name in ("banyan", "datatrove"):
            (folder / name).mkdir()
        banyan_command = [sys.executable, "-m", "tests.benchmarks.contestants.preparing"]
        datatrove_command = [str(peer), str(ROOT / "tests/benchmarks/contestants/datatrove_stages.py")]
        banyan = Contestant(stack, [*banyan_command, str(file), str(tokenizer), str(folder / "banyan"), str(count)])
        datatrove = Contestant(
            stack, [*datatrove_command, str(file), str(tokenizer), str(folder / "datatrove"), str(count)]
        )
        print(
            f"{len(texts):,} documents, {ends[-1]:.1f} MB; of datatrove {count:,}, {ends[count - 1]:.1f} MB", flush=True
        )
        turns = [(banyan, "banyan", stage) for stage in (*SHARED, *BARE)]
        turns += [(datatrove, "datatrove", stage) for stage in SHARED]
        turns.sort(key=lambda turn: (*SHARED, *BARE).index(turn[2]))
        for contestant, _, stage in turns:  # compiles, loads words and models, fills caches
            contestant.run(stage)
        seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        tokens: dict[tuple[str, str], Any] = {}
        for number in range(options.rounds):
            for contestant, name, stage in turns[:: -1 if number % 2 else 1]:
                taken, given = contestant.run(stage)
                seconds[name, stage].append(taken)
                tokens[name, stage] = given
        tokens["banyan", "tokenise"] = banyan.run("tokens")[1]
        print(table(sizes, seconds))
        told = {f"{name}, {stage}": tokens[name, stage] for name, stage in tokens if tokens[name, stage] is not None}
        print("documents that stay, or tokens:", json.dumps(told))
        own = [
            theirs / ours for ours, theirs in zip(seconds["banyan", "encode"], seconds["banyan", BARE[-1]], strict=True)
        ]
        print(f"encode: {_short(statistics.median(own))} ± {_short(report.spread(own))} of gigatoken's own speed")
        kept = {f"{name}, {stage}": values for (name, stage), values in seconds.items()}
        facts = report.machine()
        print(report.machine_line(facts))
        report.write(
            options.output / "prepare.json", {"machine": facts, "megabytes": sizes, "seconds": kept, "given": told}
        )


def _datatrove() -> Path:
    script = ROOT / "tests" / "peers" / "datatrove.sh"
    return Path(subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def table(sizes: dict[str, float], seconds: dict[tuple[str, str], list[float]]) -> str:
    """MB per CPU-second, medians with spreads, and ratios round by round."""

    def speed(name: str, stage: str) -> str:
        values = [sizes["datatrove" if stage == "bare tokenizers" else name] / value for value in seconds[name, stage]]
        return f"{_short(statistics.median(values))} ± {_short(report.spread(values))}" if values else ""

    rows = []
    for stage in SHARED:
        pairs = zip(seconds["datatrove", stage], seconds["banyan", stage], strict=True)
        times = [theirs / sizes["datatrove"] / (ours / sizes["banyan"]) for theirs, ours in pairs]
        ratio = f"{_short(statistics.median(times))} ± {_short(report.spread(times))}"
        rows.append([stage, speed("banyan", stage), speed("datatrove", stage), ratio])
    for stage in BARE:
        rows.append([f"ids alone: {stage}", speed("banyan", stage), "", ""])
    return report.show(["stage", "banyan, MB/CPU-s", "datatrove", "banyan ÷ datatrove"], rows)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
