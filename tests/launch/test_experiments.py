"""conf/experiment/: each composes, passes every check and fits the cluster it is meant for; long runs train it."""

from pathlib import Path

import pytest

from launch.compose import compose
from tests.run_ranks import pretrain, read_metrics, run_ranks
from trainer.planning.cluster import cluster_of
from trainer.planning.search import assess
from trainer.rules.pretrain import check_pretrain
from trainer.verbs.plan import main as plan

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml") if path.stem != "mup_ladder")
DEVICES = {"llama_70b": 256, "llama_175b": 1024, "moe_8x7b": 256}  # H100s; else 64
TINY = (
    *("model.vocab_size=300", "model.hidden_size=48", "model.intermediate_size=96", "model.num_hidden_layers=2"),
    *("model.num_attention_heads=4", "model.num_key_value_heads=2", "data.sequence_length=32", "train.batch_size=8"),
    *(
        "train.micro_batch_size=2",
        "parallel.tensor=1",
        "checkpoint.every=0",
        "evaluate.every=0",
        "evaluate.prompt=null",
    ),
    *("track.every=1", "track.wandb.mode=disabled", "train.precision=fp32", "train.stop_at=2"),
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_fits_its_cluster_and_says_its_source(name, capsys):
    devices = DEVICES.get(name, 64)
    config = compose("plan", [f"experiment={name}", f"plan.devices={devices}", "plan.device=h100"])
    assert plan(config) == 0
    assert "does not fit" not in capsys.readouterr().out
    cluster = cluster_of(config.plan, config.launch)
    assert assess(config, cluster).memory.total < cluster.device.memory
    text = (ROOT / f"conf/experiment/{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n# ")


def test_the_ladder_is_a_sweep_s():
    config = compose("sweep", ["search=ladder", "experiment=mup_ladder", "data.path=data/mine"])
    assert config.model.mup
    check_pretrain(config, 1)


def test_the_readme_lists_every_experiment():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in (*EXPERIMENTS, "mup_ladder") if f"`{name}`" not in readme] == []


@pytest.mark.full
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_takes_two_steps_at_a_tiny_size(name, corpus, tmp_path):
    tiny = [key for key in TINY if not (name == "moe_8x7b" and key.startswith("model.intermediate_size"))]
    experts = ["model.moe_intermediate_size=32"] if name == "moe_8x7b" else []
    places = [f"data.path={corpus}", f"run.dir={tmp_path / 'run'}"]
    config = compose("pretrain", [f"experiment={name}", *tiny, *experts, *places])
    assert run_ranks(pretrain, config, 2) == [85, 85]
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2]
