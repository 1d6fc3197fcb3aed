"""What revising did, kept beside the shards once prepare ends:

paragraphs/taken.zst                             TAKEN of each document of which paragraphs were taken out
rejected/repeated_paragraphs.paragraph.jsonl.zst what was taken out of documents that stay: a sample, bounded by bytes
rejected/repeated_paragraphs.document.jsonl.zst  documents of which nothing was left
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zstandard

from trainer.data.clean.record import LEVEL, write_rejected
from trainer.data.packed_table import read_packed_table
from trainer.data.revise.rewrite import TAKEN, kept_path, taken_path
from trainer.machine.durable import make_folder, replacing
from trainer.machine.sealing.plaintext import read_plaintext

FOLDER, FILE = "paragraphs", "taken.zst"


def write_revision_record(
    output: Path, revised: Path, items: int, sources: Sequence[str], rejected_bytes: int, scratch: Path
) -> None:
    """Gathers what the work items left in the folder `revised`."""
    make_folder(output / FOLDER)
    with replacing(output / FOLDER / FILE, scratch=scratch) as file:
        packer = zstandard.ZstdCompressor(level=LEVEL)
        with packer.stream_writer(file, closefd=False) as packed:
            for item in range(items):
                packed.write(read_plaintext(taken_path(revised, item)))
    kept = [(kept_path(revised, item), 0) for item in range(items)]
    write_rejected(output, scratch, kept, sources, rejected_bytes)


def read_revision_record(output: Path) -> np.ndarray:
    """The documents of which paragraphs were taken out: TAKEN, in source order; none where nobody looked for them."""
    return read_packed_table(output / FOLDER / FILE, TAKEN)
