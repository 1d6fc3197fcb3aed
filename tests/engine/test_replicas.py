"""Stage 0's gradients averaged beside backward, as on several GPUs: here over gloo."""

import json
import os
from pathlib import Path

import pytest

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states


def averaging_beside_backward(config):
    """The verb, at stage 0 as on GPUs; when each bucket was begun is left beside the run, rank 0's."""
    from trainer.engine.deepspeed import replicas, zero

    zero.overlaps = lambda *, cuda, ranks: ranks > 1
    events = []
    begin, finish = replicas.ReplicaGradients._begin, replicas.ReplicaGradients.finish

    def begun(self):
        events.append("begin")
        begin(self)

    def finished(self):
        events.append("end of backward")
        finish(self)

    replicas.ReplicaGradients._begin, replicas.ReplicaGradients.finish = begun, finished
    replicas.ReplicaGradients.__init__.__defaults__ = (10_000,)  # elements of a bucket
    code = pretrain(config)
    if os.environ["RANK"] == "0":
        Path(f"{config.run.dir}.json").write_text(json.dumps(events))
    return code


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (2, {"model__tie_word_embeddings": True}),
        pytest.param(4, {"parallel__tensor": 2, "model__qk_norm": True}, marks=pytest.mark.full),
        pytest.param(2, {"parallel__sequence": 2}, marks=pytest.mark.full),
        pytest.param(2, {"model__num_experts": 4, "train__activation_checkpointing": "full"}, marks=pytest.mark.full),
    ],
)
def test_gradients_are_the_same_to_the_bit_and_most_are_on_their_way_before_backward_ends(
    corpus, tmp_path, ranks, changes
):
    """Of two summands the order doesn't matter, so that DeepSpeed's sum at the end has the same bits."""
    changes = {"train__steps": 3, "checkpoint__every": 3} | changes
    at_end, beside = (small_config(corpus, tmp_path / name, **changes) for name in ("at-end", "beside"))
    assert run_ranks(pretrain, at_end, ranks) == [0] * ranks
    assert run_ranks(averaging_beside_backward, beside, ranks) == [0] * ranks
    rows = [
        [(row["train/loss"], row["train/grad_norm"]) for row in read_metrics(tmp_path / name)]
        for name in ("at-end", "beside")
    ]
    assert rows[0] == rows[1]
    assert_equal_states(tmp_path / "at-end", tmp_path / "beside")
    events = json.loads((tmp_path / "beside.json").read_text())
    buckets = events.count("begin") // 3
    assert buckets >= 3
    last = events[: events.index("begin") + buckets + 1]
    assert last[-1] == "end of backward"
    assert last[-1 - buckets :].count("begin") == buckets  # all, before the step's last backward had ended
