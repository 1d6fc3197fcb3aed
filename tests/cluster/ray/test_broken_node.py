"""A node that a failure is put down to is left out while the others have room."""

import json
import signal

import pytest

from launch.ray.blamed import RayNode, left_out, selector_of
from launch.ray.cluster import Demand
from tests.cluster.ray.daemons import ENDLESS, SMALL_RUN, ranks_of
from tests.run_ranks import read_metrics
from trainer.checkpoint.folders import list_steps
from trainer.machine.durable import write_json

NODES = [RayNode(f"id{n}", f"10.0.0.{n}", "host", {"CPU": 4.0}) for n in range(3)]


def blame(run_dir, *nodes):
    blames = [{"node": node, "time": 0.0, "step": 0, "reason": ""} for node in nodes]
    write_json(run_dir / "nodes.json", {"version": 1, "blames": blames})


@pytest.mark.parametrize(
    ("least", "blamed", "expected"),
    [
        (2, ["10.0.0.1"], ["id1"]),
        (3, ["10.0.0.1"], []),
        (2, ["10.0.0.1", "10.0.0.2", "10.0.0.2"], ["id2"]),
        (1, ["10.0.0.1", "10.0.0.2", "10.0.0.2"], ["id2", "id1"]),
    ],
)
def test_what_is_left_out_leaves_room(tmp_path, least, blamed, expected):
    blame(tmp_path, *blamed)
    demand = Demand(least=least, most=least, ranks=1, cpus=4.0, gpus=0)
    out = left_out(tmp_path, demand, NODES)
    assert [node.id for node in out] == expected
    assert selector_of(out) == ({"ray.io/node-id": f"!in({','.join(expected)})"} if expected else {})


@pytest.mark.full
def test_a_run_goes_on_without_the_node_of_a_killed_rank(daemons, corpus, tmp_path):
    run_dir = tmp_path / "run"
    added = [daemons.add_node(number, cpus=3) for number in (4, 5)]
    keys = [*SMALL_RUN, *ENDLESS, "checkpoint.every=20", f"data.path={corpus}", f"run.dir={run_dir}"]
    keys += ["launch.workers=2", "launch.cpus_per_worker=3", "launch.threads=1"]
    driver = daemons.banyan("pretrain", "launch=ray", *keys, log=tmp_path / "driver.log")
    driver.wait_until(lambda: list_steps(run_dir))
    ranks_of(run_dir)[1].send_signal(signal.SIGKILL)
    driver.wait_until(lambda: "blamed before" in driver.output())
    (node,) = {one["node"] for one in json.loads((run_dir / "nodes.json").read_text())["blames"]}
    assert f"rank 1 on {node} was killed by SIGKILL" in driver.output()
    assert f"without {node}, blamed before" in driver.output()
    reached = read_metrics(run_dir)[-1]["step"]
    driver.wait_until(lambda: read_metrics(run_dir)[-1]["step"] > reached + 5)
    where = {process.environ().get("MASTER_ADDR") for process in ranks_of(run_dir)}
    assert where
    assert node not in where
    (run_dir / "stop").touch()
    assert driver.wait() == 85
    for one in added:
        daemons.kill_node(one)
