"""Ray itself: what these tests can't do without."""

import importlib.util
import os

import pytest

from tests.cluster.ray.daemons import Daemons


@pytest.fixture(scope="session")
def daemons():
    """A cluster of one node with 4 CPUs and a dashboard. Skips where Ray is missing; where CI is set, that fails."""
    if importlib.util.find_spec("ray") is None:
        message = 'Ray is not installed: pip install -e ".[ray]"'
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    started = Daemons(cpus=4)
    yield started
    started.stop()
