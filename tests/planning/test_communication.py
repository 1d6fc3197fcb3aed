"""What is predicted is what DeepSpeed's communication logger counts on real ranks."""

import itertools
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.data.tokens.datasets import open_training
from trainer.planning.communication import transfers
from trainer.planning.layout import layout_of

LOGGER = {"comms_logger": {"enabled": True, "verbose": False, "prof_all": True, "debug": False}}


def count_a_step(config):
    """Trains; rank 0 leaves the bytes of each collective up to the end of every step in communication.json."""
    from deepspeed.comm import comm

    from trainer.engine.loop import Trainer

    counts = []
    save_if_due = Trainer._save_if_due

    def counted(self, *given, **options):
        logged = comm.comms_logger.comms_dict
        counts.append({op: sum(size * record[0] for size, record in sizes.items()) for op, sizes in logged.items()})
        return save_if_due(self, *given, **options)

    Trainer._save_if_due = counted
    code = pretrain(config)
    if os.environ["RANK"] == "0":
        Path(config.run.dir, "communication.json").write_text(json.dumps(counts))
    return code


def assert_predicted(corpus, run_dir, *, ranks, **changes):
    config = small_config(corpus, run_dir, train__steps=3, **changes)
    config.deepspeed = LOGGER
    assert run_ranks(count_a_step, config, ranks) == [0] * ranks
    _, before, after = json.loads((run_dir / "communication.json").read_text())[:3]
    counted = Counter(after)
    counted.subtract(before)
    config.model.vocab_size = config.model.vocab_size or open_training(config.data)[0].manifest.vocab_size
    predicted = Counter()
    for transfer in transfers(layout_of(config, ranks)):
        predicted[transfer.op] += transfer.total
    assert predicted == +counted


WIDE = {"model__hidden_size": 96, "model__intermediate_size": 1100, "model__qk_norm": True, "model__loss_chunk": 40}
SHAPES = [(w, z, t) for w, z, t in itertools.product((2, 4), range(4), (1, 2))]


@pytest.mark.parametrize(
    ("ranks", "stage", "tensor"),
    [pytest.param(*shape, marks=() if shape in ((2, 1, 1), (4, 3, 2)) else pytest.mark.full) for shape in SHAPES],
)
def test_every_stage_and_tensor_degree(corpus, tmp_path, ranks, stage, tensor):
    """Weights above and below stage 3's threshold, and a loss in chunks."""
    shape = {"parallel__zero_stage": stage, "parallel__tensor": tensor}
    assert_predicted(corpus, tmp_path / "run", ranks=ranks, **shape, **WIDE)


@pytest.mark.full
@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("stage", range(4))
def test_bf16(corpus, tmp_path, stage, tensor):
    shape = {"parallel__zero_stage": stage, "parallel__tensor": tensor}
    assert_predicted(corpus, tmp_path / "run", ranks=2 * tensor, train__precision="bf16", **shape, **WIDE)


@pytest.mark.full
@pytest.mark.parametrize(
    "changes",
    [
        {"parallel__sequence": 2},
        {"parallel__sequence": 2, "train__activation_checkpointing": "full"},
        {"parallel__tensor": 2, "train__activation_checkpointing": "full"},
        {"parallel__tensor": 2, "train__activation_checkpointing": "selective"},
        {"parallel__tensor": 2, "model__num_experts": 4, "model__moe_intermediate_size": 40},
        {"parallel__tensor": 2, "model__tie_word_embeddings": True},
    ],
    ids=str,
)
def test_what_else_is_exchanged(corpus, tmp_path, changes):
    assert_predicted(corpus, tmp_path / "run", ranks=2, parallel__zero_stage=1, **changes)
