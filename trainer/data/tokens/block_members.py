"""What a block may hold besides tokens: numbers for each token, or for each document. One more is a row of KINDS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from trainer.machine.json_file import Malformed, shown

MOST_WIDTH = 2**16  # numbers for a token or document


@dataclass(frozen=True)
class MemberKind:
    """The member KEY.`name`.npy: 1-D, `width` numbers for each token or document, one after the other.

    `dtype` None is the tokens' own; `width` None is whatever the manifest says.
    """

    name: str
    dtype: np.dtype | None
    by_token: bool
    width: int | None = None

    def count(self, tokens: int, documents: int) -> int:
        """How many tokens or documents a block has numbers for."""
        return tokens if self.by_token else documents

    def of(self, tokens_dtype: np.dtype) -> np.dtype:
        """The dtype in a shard whose tokens are of `tokens_dtype`."""
        return tokens_dtype if self.dtype is None else self.dtype


LABEL, TAGS = "label", "tags"

# In the order in which they stand in a block, and in the columns of its index
KINDS: dict[str, MemberKind] = {
    kind.name: kind
    for kind in (
        # Of a pair of answers, tokens of the chosen one, prompt included: the rejected one follows it in its document
        MemberKind("sides", np.dtype(np.uint32), by_token=False, width=1),
        # Log-probabilities, in nats, of the chosen and of the rejected answer by a reference model
        MemberKind("reference", np.dtype(np.float32), by_token=False, width=2),
        # A teacher's k largest log-probabilities of each token given those before it, then the mass of all others
        MemberKind("teacher", np.dtype(np.float32), by_token=True),
        # The k tokens that those are of
        MemberKind("teacher_ids", None, by_token=True),
        # One more than the number of a text's label; 0: none
        MemberKind(LABEL, np.dtype(np.uint16), by_token=False, width=1),
        # One more than the number of the tag of the token before each; 0: none
        MemberKind(TAGS, np.dtype(np.uint16), by_token=True, width=1),
    )
}

# What is said of data without a member that an objective reads
LACKING = {
    "sides": "its shards hold no pairs: prepare them with data.format=preference.",
    "reference": "its shards hold no log-probabilities of a reference model: prepare them with data.reference=MODEL.",
    "teacher": "its shards hold no probabilities of a teacher: prepare them with data.teacher=MODEL, or name one that "
    "is asked while training by objective.teacher=MODEL.",
    LABEL: "its texts have no labels: prepare them with data.format=labelled.",
    TAGS: "its words have no tags: prepare them with data.format=tagged.",
    "teacher_ids": "its shards hold no tokens of a teacher: prepare them with data.teacher=MODEL.",
}


def kinds_named(names: Iterable[str]) -> list[MemberKind]:
    """The kinds of these names, in the order of KINDS."""
    chosen = set(names)
    return [kind for name, kind in KINDS.items() if name in chosen]


def check_widths(widths: Mapping[str, int]) -> None:
    """Refuses members that aren't known, or of another width than theirs."""
    for name, width in widths.items():
        if name not in KINDS:
            raise Malformed(f"a member {shown(name)} of blocks, which isn't known")
        if not 1 <= width <= MOST_WIDTH or KINDS[name].width not in (None, width):
            raise Malformed(f"{width:,} numbers in a row of the member {name}")
