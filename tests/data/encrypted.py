"""Texts that must not come on a disk as they are, and the command that prepares and trains in processes of its own."""

import os
import random
import subprocess
import sys

import numpy as np

COMMAND = """
import sys
from launch.cli import main
from trainer.data.text import collect, split

if __name__ == "__main__":
    collect.LEAST_ITEM_BYTES, split.BUCKET_BYTES, split.FILE_BYTES = 25_000, 70_000, 70_000
    sys.exit(main(sys.argv[1:]))
"""
WORDS = ["meadow", "copper", "lantern", "harbour", "violet", "thunder", "willow", "granite", "saffron", "orchard"]
PREPARED = (
    *("data.tokenizer.train.vocab_size=400", "data.shard_bytes=20000", "data.block_tokens=2000"),
    *("data.validation_fraction=0.05", "data.workers=1"),
)


def secret_texts(count):
    """Texts, each with a word that no other text has."""
    draw = random.Random(3)
    return [
        f"secret{number:05d}classified the way of it and to that "
        + " ".join(draw.choices(WORDS, k=draw.randint(35, 70)))
        for number in range(count)
    ]


def environment(folder):
    """That of a command whose temporary files are in one folder."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    places = {"PYTHONPATH": os.getcwd(), "TMPDIR": str(folder / "tmp")}
    return {**os.environ, "OMP_NUM_THREADS": "1", **places}


def start_banyan(folder, *arguments, small_items=False):
    """A command in a process of its own, with its temporary files in `folder`."""
    program = [sys.executable, "-m", "launch"]
    if small_items:
        (folder / "run.py").write_text(COMMAND)
        program = [sys.executable, str(folder / "run.py")]
    return subprocess.Popen(
        [*program, *map(str, arguments)],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def banyan(folder, *arguments, code=0):
    """The same to its end; what it printed."""
    with start_banyan(folder, *arguments) as process:
        printed = process.communicate(timeout=240)[0]
    assert process.returncode == code, printed
    return printed


def needles(texts, datasets=()):
    """Bytes by which texts and their tokens are known: of each text a word, and of each dataset runs of token ids."""
    runs = []
    for dataset in datasets:
        for reader in dataset:
            tokens = reader.read(0, reader.tokens)
            runs += [tokens[at : at + 12].tobytes() for at in range(0, len(tokens) - 12, 97)]
            runs += [tokens[at : at + 12].astype(np.int64).tobytes() for at in range(0, len(tokens) - 12, 97)]
    return [*(text.split()[0].encode() for text in texts), *runs]
