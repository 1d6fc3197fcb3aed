"""What ranks print, in a file: their server's standard output was settled when the first test started it."""

import os
from pathlib import Path


class Printing:
    """Work whose ranks append what they print to a file; picklable where the work is."""

    def __init__(self, work, file):
        self.work, self.file = work, file

    def __call__(self, argument):
        os.dup2(os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
        return self.work(argument)


def printed_lines(file: Path) -> list[str]:
    """The lines of such a file."""
    return file.read_text().splitlines()
