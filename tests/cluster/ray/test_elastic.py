"""A run whose nodes go and come: it shrinks and grows, and is the undisturbed run."""

import pytest

from tests.cluster.ray.daemons import ENDLESS, SMALL_RUN, calm_rows, ranks_of
from tests.run_ranks import read_metrics
from trainer.checkpoint.folders import list_steps

CALM = {"train__batch_size": 32, "train__micro_batch_size": 8, "optimizer__lr": 3e-4}


@pytest.mark.full
def test_run_that_loses_a_node_and_gets_one_back_is_the_undisturbed_run(daemons, corpus, tmp_path):
    run_dir = tmp_path / "elastic"
    node = daemons.add_node(2, cpus=2)
    keys = [*SMALL_RUN, *ENDLESS, "checkpoint.every=20", "train.batch_size=32", "optimizer.lr=3e-4"]
    keys += [f"data.path={corpus}", f"run.dir={run_dir}", "parallel.zero_stage=2"]
    keys += ["launch.workers=[1,3]", "launch.cpus_per_worker=2", "launch.threads=1", "launch.resize_check_s=2"]
    driver = daemons.banyan("pretrain", "launch=ray", *keys, log=tmp_path / "driver.log")
    driver.wait_until(lambda: list_steps(run_dir))
    assert len(ranks_of(run_dir)) == 3
    daemons.kill_node(node)
    driver.wait_until(lambda: "on 2 ranks" in driver.output())
    node = daemons.add_node(3, cpus=2)
    driver.wait_until(lambda: driver.output().count("on 3 ranks") == 2)
    assert "the ranks checkpoint and start again" in driver.output()
    reached = read_metrics(run_dir)[-1]["step"]
    driver.wait_until(lambda: read_metrics(run_dir)[-1]["step"] > reached + 5)
    (run_dir / "stop").touch()
    assert driver.wait() == 85
    daemons.kill_node(node)

    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    padded = ["perf/padding_share" in row for row in rows]  # 32 micro-batches leave one of 33 places of 3 ranks empty
    assert padded[0]
    assert padded[-1]
    assert not all(padded)
    expected = calm_rows(corpus, tmp_path / "calm", len(rows), world_size=1, **CALM)
    for key, tolerance in (("train/loss", 1e-5), ("train/grad_norm", 1e-4)):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in expected], rel=tolerance)
