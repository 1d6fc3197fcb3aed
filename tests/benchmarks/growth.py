"""How prepare grows with the number of documents: time by stage, memory of the driver and of a worker, disk, reads.

python -m tests.benchmarks.growth [--documents 100000 1000000] [--words 16] [--workers 2] [--folder DIR]

Documents are synthetic and small, of `--words` words, one in ten a copy of an earlier one, in files of JSON lines.
Memory is the highest resident set; disk what lies below the output; reads what the workers asked the kernel for.
`--count` counts opens and reads of stored documents instead, by an audit hook, with one worker.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.corpus import WORDS

FILE_DOCUMENTS = 250_000
VOCABULARY = [*WORDS, *(f"{word}{ending}" for word in WORDS for ending in ("s", "ed", "ing", "er", "ly"))]
POLL_S = 0.05
STAGE = re.compile(r"^(read|shuffle|tokenizer|encode) .* in ([0-9.]+) s \(", re.MULTILINE)


def write_corpus(folder: Path, documents: int, words: int) -> int:
    """Writes the files, unless they are there; returns the bytes of their texts."""
    size_file = folder / ".bytes"
    if size_file.exists():
        return int(size_file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    draw, size = random.Random(documents), 0
    for first in range(0, documents, FILE_DOCUMENTS):
        with open(folder / f"{first // FILE_DOCUMENTS:04d}.jsonl", "w") as file:
            for number in range(first, min(documents, first + FILE_DOCUMENTS)):
                name = number if number % 10 else draw.randrange(number + 1)
                text = f"document {name} " + " ".join(random.Random(name).choices(VOCABULARY, k=words))
                size += len(text)
                file.write(f'{{"text": "{text}"}}\n')
    size_file.write_text(str(size))
    return size


def settings(source: Path, output: Path, workers: int) -> list[str]:
    """What is typed after `banyan prepare`: the tokenizer's sample is of one size, whatever that of the corpus."""
    return [
        *(f"data.input={source}", f"data.output={output}", f"data.workers={workers}", "data.name=growth"),
        *("data.tokenizer.train.vocab_size=1000", "data.tokenizer.train.sample_bytes=4000000"),
        "data.shard_bytes=67108864",
    ]


class Watch:
    """Polls a process and its children: resident sets, reads, and the bytes below a folder."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.driver = self.worker = self.disk = 0
        self.read: dict[int, int] = {}
        self._pid, self._folder = pid, folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def end(self) -> None:
        """Stops polling."""
        self._ended.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._ended.wait(POLL_S):
            self.driver = max(self.driver, _status(self._pid, "VmHWM"))
            for child in _children(self._pid):
                self.worker = max(self.worker, _status(child, "VmHWM"))
                self.read[child] = max(self.read.get(child, 0), _reads(child))
            self.disk = max(self.disk, _bytes_below(self._folder))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _status(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return 0


def _reads(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def measure(documents: int, words: int, workers: int, folder: Path) -> dict[str, Any]:
    """One corpus, prepared."""
    source, output = folder / f"corpus-{documents}", folder / f"out-{documents}"
    text = write_corpus(source, documents, words)
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-P", "-m", "launch", "prepare", *settings(source, output, workers)]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        watch = Watch(process.pid, output)
        said = process.communicate()[0]
        watch.end()
    if process.returncode:
        raise SystemExit(said)
    return {
        "documents": documents,
        "text_bytes": text,
        "seconds": round(time.monotonic() - began, 1),
        "stages": {stage: float(seconds) for stage, seconds in STAGE.findall(said)},
        "driver_bytes": watch.driver,
        "worker_bytes": watch.worker,
        "disk_bytes": watch.disk,
        "output_bytes": _bytes_below(output),
        "read_bytes": sum(watch.read.values()),  # by the workers
    }


def count(documents: int, words: int, folder: Path) -> dict[str, Any]:
    """Opens of stored documents to read, by kind, in one process."""
    from launch.compose import compose
    from trainer.data.text import document_store
    from trainer.verbs.prepare import main as prepare

    source, output = folder / f"corpus-{documents}", folder / f"counted-{documents}"
    write_corpus(source, documents, words)
    shutil.rmtree(output, ignore_errors=True)
    counts: Counter[str] = Counter()

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            path = Path(arguments[0])
            if path.parent.name == "partial" and isinstance(arguments[2], int) and not arguments[2] & os.O_CREAT:
                counts[f"opens of {path.suffix}"] += 1

    read_at = document_store._read_at

    def counted(file: Any, offset: int, size: int) -> bytes:
        counts["reads of text"] += 1
        counts["bytes of text read"] += size
        return read_at(file, offset, size)

    document_store._read_at = counted
    sys.addaudithook(see)
    prepare(compose("prepare", settings(source, output, 1)))
    return {"documents": documents, **dict(sorted(counts.items()))}


def main(arguments: list[str]) -> int:
    """Measures, and prints a line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--words", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write, and to find the corpora again; else temporary")
    parser.add_argument("--count", action="store_true", help="count opens and reads, in one process")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        for documents in given.documents:
            if given.count:
                found = count(documents, given.words, folder)
            else:
                found = measure(documents, given.words, given.workers, folder)
            print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
