"""Tables of fixed rows beside the shards, packed by zstd: read as what others wrote, within bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zstandard

from trainer.errors import InputError
from trainer.machine.json_file import open_regular

MOST_BYTES = 2**32  # unpacked
PIECE_BYTES = 2**24  # `read` makes room for as much as it is asked for


def read_packed_table(path: Path, dtype: np.dtype) -> np.ndarray:
    """The rows of a file; none where there is none. InputError where it isn't such a table, or an endless one."""
    try:
        with open_regular(path) as packed:
            unpacked = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            content = bytearray()
            while piece := unpacked.read(PIECE_BYTES):
                content += piece
                if len(content) > MOST_BYTES:
                    raise ValueError("too large")
        return np.frombuffer(content, dtype)
    except FileNotFoundError:
        return np.empty(0, dtype)
    except (OSError, ValueError, EOFError, zstandard.ZstdError) as error:
        raise InputError(f"{path}: can't be read ({error}); prepare the data again, or remove it.") from error
