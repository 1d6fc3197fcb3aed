"""`banyan data index` on a Ray cluster writes what it writes on one machine, with workers killed meanwhile."""

import pytest

from tests.cluster.ray.daemons import wait_until
from tests.cluster.ray.test_prepare import workers_of
from tests.corpus import write_texts
from tests.data.web.wds import index_wds, write_wds


@pytest.mark.full
@pytest.mark.parametrize("victim", ["worker", "node"])
def test_an_index_with_something_killed_is_the_same_to_the_byte(daemons, tmp_path, victim):
    write_wds(tmp_path / "tars", [{"txt": text} for text in write_texts(3000, seed=3)], (250,) * 12)
    calm, shared = index_wds(str(tmp_path / "tars"), tmp_path, output=str(tmp_path / "calm")), tmp_path / "ray"
    node = daemons.add_node(2, cpus=2) if victim == "node" else None
    driver = daemons.banyan(
        *("data", "index", str(tmp_path / "tars"), "launch=ray", f"data.output={shared}"),
        f"data.tokenizer.path={tmp_path / 'tokenizer'}",
        log=tmp_path / "driver.log",
    )
    driver.wait_until(lambda: workers_of(daemons) and list(shared.glob("shard-*.index")))
    if node is not None:
        daemons.kill_node(node)
    for worker in [] if node else workers_of(daemons):
        worker.kill()
    assert driver.wait() == 0, driver.output()
    assert indices(shared) == indices(calm)
    assert not (shared / "partial").exists()
    wait_until(lambda: not workers_of(daemons), 30)


def indices(folder):
    """The files of an index but for what tells of its making."""
    return {path.name: path.read_bytes() for path in folder.glob("*.index")}
