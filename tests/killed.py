"""prepare in processes of its own that can be killed: small work items, so that there is much to be killed in."""

import bz2
import fnmatch
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import zstandard

from tests.corpus import write_texts
from tests.data.text.formats import arrow, crawl, jsonl, parquet, record, table, wet, wikipedia
from tests.prepared import prepare, shard_files

PROGRAM = """
import json, os, sys
from launch.slurm.array import share_of
from tests.prepared import configure
from trainer.data.text import collect, shared_work, split
from trainer.verbs.prepare import main

if __name__ == "__main__":
    collect.LEAST_ITEM_BYTES, split.BUCKET_BYTES, split.FILE_BYTES = 25_000, 70_000, 70_000
    shared_work.BEAT_S, shared_work.STALE_S, shared_work.POLL_S = 0.1, 1.5, (0.05, 0.2)
    inputs, output, workers = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    print(main(configure(inputs, output, workers=workers, validation_fraction=0.1), share=share_of(os.environ)))
"""


def write_program(folder):
    """The program that `start` runs."""
    (folder / "run.py").write_text(PROGRAM)
    return folder / "run.py"


def start(program, inputs, output, *, workers=2, element=None, elements=3):
    """prepare in a process of its own; with `element` as one of a job array."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    if element is not None:
        array = {"JOB_ID": 77, "TASK_ID": element, "TASK_MIN": 0, "TASK_COUNT": elements}
        environment |= {f"SLURM_ARRAY_{name}": str(value) for name, value in array.items()}
    command = [sys.executable, program, json.dumps(inputs), output, str(workers)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def count_files(folder, pattern="*"):
    return sum(len(fnmatch.filter(files, pattern)) for _, _, files in os.walk(folder))


def kill_after_files(process, folder, files, pattern="*"):
    """Kills once `files` more files are there; False if it came to its end before."""
    target = count_files(folder, pattern) + files
    while process.poll() is None and count_files(folder, pattern) < target:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def assert_same_after_kills(inputs, folder, *, kills, workers):
    """That prepare, killed at random moments, writes what it writes undisturbed."""
    program, killed = write_program(folder), folder / "killed"
    calm = prepare(inputs, folder / "calm", validation_fraction=0.1)
    draw, hit = random.Random(), 0
    while hit < kills:
        with start(program, inputs, killed, workers=workers) as process:
            hit += kill_after_files(process, killed, draw.randint(1, 20))
        if not (killed / "partial").exists():
            shutil.rmtree(killed)  # it came to its end: begin again
    with start(program, inputs, killed, workers=workers) as last:
        assert last.communicate()[0].endswith("\n0\n")
    assert shard_files(killed) == shard_files(calm)


def large_files(folder):
    """A file of each kind that is read in parts where work items are small, and two that aren't."""
    folder.mkdir()
    texts, dump = write_texts(500, seed=1), wikipedia(write_texts(500, seed=7))
    for name, content in {
        "a.parquet": parquet(write_texts(500, seed=2), rows=50, compression="none"),
        "b.warc.gz": b"".join(map(gzip.compress, crawl(write_texts(500, seed=3)))),
        "c.csv": table(write_texts(500, seed=4)),
        "d.arrow": arrow(write_texts(500, seed=5), stream=False, rows=50),
        "e.wet": b"".join([*wet(write_texts(500, seed=6)), b"garbage\n", record(b" ")]),
        "f.jsonl.zst": zstandard.compress(jsonl(texts)),
        "g.xml.bz2": b"".join(bz2.compress(dump[start : start + 20_000]) for start in range(0, len(dump), 20_000)),
        "h.jsonl": jsonl([*texts[:100], *write_texts(200, seed=8)]) + b"no json\n",
    }.items():
        (folder / name).write_bytes(content)
    return folder
