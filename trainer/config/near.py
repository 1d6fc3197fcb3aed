"""How prepare finds documents that are nearly the same."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.knobs import knob


@dataclass
class Near:
    """MinHash with bands (Broder 1997; Indyk and Motwani 1998): the values are FineWeb's.

    Two documents of Jaccard similarity s are compared with a chance of 1 - (1 - s^rows)^bands.
    """

    words: int = knob(
        5, "Words in a shingle; each Chinese character is one.", "words", low=1, high=100, later=True, decides=True
    )
    bands: int = knob(14, "Bands of a signature.", "bands", low=1, high=256, later=True, decides=True)
    rows: int = knob(8, "Minima in a band.", "rows", low=1, high=64, later=True, decides=True)
    similarity: float = knob(
        0.7,
        "Least Jaccard similarity of the shingles of two documents that are compared; 0 takes all that share a band.",
        high=1.0,
        later=True,
        decides=True,
    )
    against: list[str] = knob(
        [], "Outputs of prepare with an index: what is near to theirs is dropped.", later=True, decides=True
    )
    index: bool = knob(False, "Keep the signatures, for data.near.against of later data.", later=True, decides=True)
    memory_bytes: int = knob(2**30, "Memory for the keys that a worker sorts at once.", "bytes", low=2**20, later=True)
