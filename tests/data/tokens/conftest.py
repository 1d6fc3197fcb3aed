"""A dataset, and copies of it to break."""

import shutil

import pytest

from tests.corpus import make_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A folder of token shards, which no test changes."""
    folder = tmp_path_factory.mktemp("shards") / "dataset"
    make_dataset(folder)
    return folder


@pytest.fixture
def copy(dataset, tmp_path):
    """A dataset to break."""
    return shutil.copytree(dataset, tmp_path / "copy")
