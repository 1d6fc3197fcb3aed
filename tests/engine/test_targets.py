"""The loss is over the targets that count, whichever ranks and micro-steps they fall on."""

from dataclasses import replace

import pytest

from tests.engine.reference import assert_same_course
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.data.tokens.loader import IGNORED
from trainer.objective import build, causal


class EveryThird(causal.Causal):
    """Targets whose token is divisible by three count for nothing; every seventh row has none at all."""

    def to_batch(self, rows, *, positions):
        batch = super().to_batch(rows, positions=positions)
        targets = batch.targets.masked_fill(batch.targets % 3 == 0, IGNORED)
        targets[positions % 7 == 0] = IGNORED
        return replace(batch, targets=targets)

    def units_per_row(self):
        return None


def masked(config):
    build.KINDS["causal"] = build.Kind(lambda settings, data, manifest, seed: EveryThird(data.sequence_length, None))
    return pretrain(config)


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    """One rank, each global batch in one piece."""
    config = small_config(corpus, tmp_path_factory.mktemp("alone") / "run", train__steps=5, train__micro_batch_size=8)
    assert run_ranks(masked, config, 1) == [0]
    return read_metrics(tmp_path_factory.getbasetemp() / "alone0" / "run")


@pytest.mark.parametrize(
    ("ranks", "stage", "micro", "changes"),
    [(2, 0, 1, {}), (2, 3, 2, {}), (2, 2, 4, {"parallel__tensor": 2}), (2, 1, 2, {"parallel__sequence": 2})],
    ids=["stage 0", "stage 3", "tensor", "sequence"],
)
def test_loss_and_norm_do_not_depend_on_ranks_stage_or_micro_batch(
    corpus, tmp_path, alone, ranks, stage, micro, changes
):
    changes |= {"train__steps": 5, "train__micro_batch_size": micro, "parallel__zero_stage": stage}
    config = small_config(corpus, tmp_path / "run", **changes)
    assert run_ranks(masked, config, ranks) == [0] * ranks
    expected = [(row["train/loss"], row["train/grad_norm"]) for row in alone]
    rows = assert_same_course(tmp_path / "run", expected, 1e-5)
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in alone]
    assert 0 < alone[0]["tokens"] < 8 * 32
