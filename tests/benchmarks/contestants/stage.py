"""What a contestant is started with: `python -m tests.benchmarks.contestants.NAME CASE FOLDER OPTIONS`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.case import Case


@dataclass(frozen=True)
class Stage:
    """The case, the folder with the tokens, and what is particular to this contestant."""

    case: Case
    folder: Path
    options: dict[str, str]

    @staticmethod
    def from_arguments() -> Stage:
        """Of this process."""
        case, folder, options = sys.argv[1:4]
        return Stage(Case.from_json(case), Path(folder), json.loads(options))

    @property
    def rank(self) -> int:
        """Of this process."""
        return int(os.environ["RANK"])
