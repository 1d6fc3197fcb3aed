"""A contestant's side of bench-prepare: runs the stage whose name is on standard input, and says what it cost.

Only the standard library: it is used in the peers' environments, too.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable

FILTERS = ("gopher_repetition", "gopher_quality", "c4", "fineweb_quality")


def serve(stages: dict[str, Callable[[], object]]) -> None:
    """For each line of standard input, CPU seconds of that stage and what it gave, as a line of JSON."""
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            begun = time.process_time()
            given = stages[line.strip()]()
            seconds = time.process_time() - begun
        print(json.dumps({"seconds": seconds, "given": given}), flush=True)
