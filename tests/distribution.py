"""Which tests go to which worker of pytest, and when: a cluster's files together, and what takes long first."""

from xdist.scheduler import LoadFileScheduling

TOGETHER = ("tests/cluster/ray/", "tests/cluster/slurm/")
"""Folders whose files are one piece of work: a second worker would start a second cluster."""

LONG = (
    *("tests/cluster/ray/", "tests/fuzz/test_readers.py", "tests/cluster/slurm/", "tests/fuzz/test_training.py"),
    "tests/verbs/test_prepare.py",
    *("tests/verbs/test_pretrain.py", "tests/engine/", "tests/faults/", "tests/launch/", "tests/checkpoint/"),
    *("tests/scale/", "tests/ranks/", "tests/verbs/", "tests/data/", "tests/model/"),
)
"""By what they take, the longest first: a long file that is begun last leaves the other workers idle."""


def turn(nodeid: str) -> int:
    """When a test's file comes, as a number to sort by."""
    return next((place for place, prefix in enumerate(LONG) if nodeid.startswith(prefix)), len(LONG))


class InPieces(LoadFileScheduling):
    """pytest-xdist's own `--dist loadfile`, but for the folders that stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return next((folder for folder in TOGETHER if file.startswith(folder)), file)
