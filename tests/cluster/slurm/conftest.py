"""`cluster`: a real SLURM of our own, started once per worker of pytest, cleaned after each test."""

import os

import pytest

from tests.cluster.slurm.cluster import SlurmCluster, find_obstacle

NODES = 3  # one more than a job takes: where it goes on when a node dies


def give_up(reason):
    """Skips; in CI, where all is installed, it fails."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def running_cluster():
    obstacle = find_obstacle()
    if obstacle:
        give_up(obstacle)
    cluster = SlurmCluster(nodes=NODES)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(running_cluster):
    """Three nodes n1 to n3 with 4 CPUs and 2 fake GPUs each, all idle."""
    yield running_cluster
    running_cluster.clean_up()


@pytest.fixture
def isolated_cluster(cluster):
    """The same, for tests that cut a node's power."""
    if not cluster.isolated:
        give_up("no namespaces here: run as root with CAP_SYS_ADMIN, as in docker run --privileged")
    return cluster


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Adds the logs of the daemons to a failed test's report."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and "running_cluster" in getattr(item, "funcargs", {}):
        report.sections.append(("SLURM", item.funcargs["running_cluster"].tail_logs()))
