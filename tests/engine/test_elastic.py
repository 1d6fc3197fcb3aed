"""Numbers of ranks that don't divide the batch: micro-batches of no weight fill the last round, and change nothing."""

import pytest

from tests.engine.reference import assert_same_course, train_plainly
from tests.rules.test_pretrain import error_line
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config.batches import micro_batch_in, padding_share, rounds

TOLERANCE = 1e-5
STEPS = 12
MIXTURE = {
    "model__num_experts": 4,
    "model__moe_intermediate_size": 32,
    "train__micro_batch_size": 1,
    "model__router_aux_loss_coef": 0.1,
}


def elastic(corpus, run_dir, **changes):
    settings = {"launch__name": "ray", "launch__workers": [1, 5], "train__micro_batch_size": 1, "train__steps": STEPS}
    return small_config(corpus, run_dir, **settings | changes)


def resize(corpus, run_dir, shapes, **changes):
    """Trains STEPS steps in equal legs, each at the next (world size, stage); the rows that were logged."""
    leg = STEPS // len(shapes)
    for number, (world_size, stage) in enumerate(shapes, start=1):
        last = number == len(shapes)
        config = elastic(corpus, run_dir, parallel__zero_stage=stage, **changes)
        config.train.stop_at = None if last else number * leg
        assert run_ranks(pretrain, config, world_size) == [0 if last else 85] * world_size


def test_sizes_that_don_t_divide_the_batch_agree_with_one_process(corpus, tmp_path):
    expected = train_plainly(elastic(corpus, tmp_path / "plain"))
    resize(corpus, tmp_path / "run", [(3, 2), (5, 3), (1, 0)])
    rows = assert_same_course(tmp_path / "run", expected, TOLERANCE)
    shares = [row.get("perf/padding_share", 0) for row in rows]
    assert shares == pytest.approx([1 / 9] * 4 + [2 / 10] * 4 + [0] * 4)


def test_experts_penalties_and_load_count_no_filled_up_row(corpus, tmp_path):
    resize(corpus, tmp_path / "one", [(1, 0)], **MIXTURE)
    resize(corpus, tmp_path / "three", [(3, 1)], **MIXTURE)
    one, three = (read_rows(tmp_path / name) for name in ("one", "three"))
    for key in ("train/loss", "train/grad_norm", "moe/load_max", "moe/load_min", "moe/balance_loss"):
        assert [row[key] for row in three] == pytest.approx([row[key] for row in one], rel=1e-5), key


def read_rows(run_dir):
    from tests.run_ranks import read_metrics

    return read_metrics(run_dir)


@pytest.mark.full
@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("changes", [{}, {"model__dropout": 0.1}, {"model__z_loss": 1e-3}])
def test_every_stage_at_three_ranks_agrees_with_one(corpus, tmp_path, stage, changes):
    resize(corpus, tmp_path / "one", [(1, stage)], **changes)
    resize(corpus, tmp_path / "three", [(3, stage)], **changes)
    expected = [(row["train/loss"], row["train/grad_norm"]) for row in read_rows(tmp_path / "one")]
    assert_same_course(tmp_path / "three", expected, TOLERANCE)


def test_share_of_empty_micro_batches():
    assert [padding_share(8, ranks) for ranks in (1, 2, 3, 4, 5, 8)] == pytest.approx([0, 0, 1 / 9, 0, 0.2, 0])
    assert [rounds(8, ranks) for ranks in (1, 3, 5, 8)] == [8, 3, 2, 1]


def test_micro_batch_follows_from_the_range():
    train = elastic("data", "run", train__batch_size=48, train__micro_batch_size=None).train
    assert [micro_batch_in(train, most) for most in (1, 6, 7, 48)] == [8, 8, 6, 1]


RANGE = {"launch__name": "ray", "launch__workers": [2, 4]}


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"launch__workers": [4, 2]}, "launch.workers=[4, 2]: give a number of ranks"),
        ({"launch__workers": [2, 3, 4]}, "the fewest and the most of an elastic run"),
        ({"launch__workers": "many"}, "launch.workers=many"),
        ({"parallel__tensor": 2}, "use parallel.tensor=1, or a fixed launch.workers"),
        ({"parallel__sequence": 2}, "use parallel.sequence=1, or a fixed launch.workers"),
        ({"parallel__zero_stage": 3, "parallel__hpz": 2}, "use parallel.hpz=1, or a fixed launch.workers"),
        ({"train__batch_size": 2}, "use at most 2"),
        ({"train__batch_size": 8, "train__micro_batch_size": 3}, "use train.micro_batch_size=1 or 2 or 4 or 8"),
    ],
)
def test_ranges_that_can_t_be_honoured_are_refused(changes, mend):
    assert mend in error_line(world_size=2, **RANGE | changes)


def test_without_a_range_the_batch_must_divide():
    assert "can't be cut" in error_line(world_size=3, launch__name="ray", launch__workers=3, train__batch_size=16)
