"""Ray itself: what these tests can't do without."""

import importlib.util
import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def ray_installed():
    """Skips where Ray is missing; where CI is set, that is a failure."""
    if importlib.util.find_spec("ray") is None:
        message = 'Ray is not installed: pip install -e ".[ray]"'
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
