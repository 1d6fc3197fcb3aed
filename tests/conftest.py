"""Fixtures shared by all tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest

from tests.corpus import make_dataset
from tests.distribution import InPieces, turn


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the long matrices too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: turn(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of `--dist loadfile` alone; files are begun in the order that pytest_collection_modifyitems gives them."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return InPieces(config, log)


RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def _leaves_no_rank():
    """A verb that runs in this process becomes a rank; what is started after it must not be taken for one."""
    before = {name: os.environ.get(name) for name in RANK_VARIABLES}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


leaves_no_rank = pytest.fixture(autouse=True)(_leaves_no_rank)
leaves_no_rank_behind_a_file = pytest.fixture(autouse=True, scope="module")(_leaves_no_rank)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder as prepare leaves it: train/ of three shards, validation/ of one."""
    folder = tmp_path_factory.mktemp("corpus")
    make_dataset(folder / "train", documents=60)
    make_dataset(folder / "validation", documents=12, shards=1, seed=5)
    return folder
