"""Starts verb processes, gives them seeds, and gathers what they found."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.fuzz.verb_process import Verdict

SHARES = {"data": 25, "checkpoint": 13, "prepare": 25, "pretrain": 16, "evaluate": 7, "generate": 7, "export": 7}
"""Of a hundred cases, those of each verb."""

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
}
PIECE = 300  # cases after which a process gives way to another verb's
RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "BANYAN_ERROR_FILE")


@contextlib.contextmanager
def folders() -> Iterator[Path]:
    """A folder for verb processes, one at a time; its path is always as long, which places in files depend on."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def serving(verb: str, root: Path) -> Iterator[Callable[[int], Verdict]]:
    """A verb's process in the folders of `root`; what is given runs a seed."""
    environment = {name: value for name, value in os.environ.items() if name not in RANK} | SETTINGS
    command = [sys.executable, "-m", "tests.fuzz.verb_process", verb, str(root)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout

    def ask(seed: int | None) -> str:
        if seed is not None:
            print(seed, file=process.stdin, flush=True)
        answer = process.stdout.readline()  # type: ignore[union-attr]
        if not answer:
            raise RuntimeError(f"the process of {verb} ended at seed {seed}; what it said is above")
        return answer

    try:
        ask(None)

        def run(seed: int) -> Verdict:
            content = json.loads(ask(seed))
            return Verdict(**content | {"mutations": tuple(content["mutations"])})

        yield run
    finally:
        process.stdin.close()
        process.wait(timeout=120)
        process.stdout.close()


def shares_of(cases: int, verbs: Iterable[str] = SHARES) -> dict[str, int]:
    """How many of `cases` each verb has."""
    whole = sum(SHARES[verb] for verb in verbs)
    return {verb: max(1, round(cases * SHARES[verb] / whole)) for verb in verbs}


def run_cases(seeds: dict[str, list[int]], *, jobs: int, tell: Callable[[Verdict], None]) -> None:
    """Runs the seeds of each verb, in `jobs` processes at a time, by turns, so that an early end has seen all verbs."""
    pieces = {verb: max(jobs, len(each) // PIECE) if len(each) > PIECE else 1 for verb, each in seeds.items()}
    turns = sorted((number / count, verb, number) for verb, count in pieces.items() for number in range(count))
    parts: queue.Queue[tuple[str, list[int]]] = queue.Queue()
    for _, verb, number in turns:
        parts.put((verb, seeds[verb][number :: pieces[verb]]))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            with folders() as root:
                while not errors:
                    verb, part = parts.get_nowait()
                    with serving(verb, root) as run:
                        for seed in part:
                            verdict = run(seed)
                            with lock:
                                tell(verdict)
        except queue.Empty:
            return
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=serve) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def again(verdict: Verdict) -> str:
    """The command that runs a case again."""
    return f"python -m tests.fuzz --verb {verdict.verb} --seed {verdict.seed}"
