"""checkpoint.fork_from: a new run begins with all the state of another, and leaves that alone."""

import pytest

from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import read_state
from trainer.run.directory import name_run


@pytest.fixture(scope="module")
def trunk(corpus, tmp_path_factory):
    """Ten steps with checkpoints at the fifth and the last."""
    run_dir = tmp_path_factory.mktemp("trunk") / "run"
    assert run_ranks(pretrain, small_config(corpus, run_dir, checkpoint__every=5), 1) == [0]
    return run_dir


def test_a_fork_with_nothing_changed_is_the_trunk(corpus, tmp_path, trunk):
    """At another shape, from a step of the trunk's; killed after step 8, it goes on with its own checkpoint."""
    fork = small_config(corpus, tmp_path / "fork", checkpoint__fork_from=f"{trunk}@5", parallel__zero_stage=3)
    fork.train.stop_at = 8
    assert run_ranks(pretrain, fork, 2) == [85, 85]
    fork.train.stop_at = None
    assert run_ranks(pretrain, fork, 2) == [0, 0]
    rows, expected = read_metrics(tmp_path / "fork"), read_metrics(trunk)[5:]
    assert [row["step"] for row in rows] == [6, 7, 8, 9, 10]
    for name in ("train/loss", "train/grad_norm", "tokens"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=1e-5)


def test_a_fork_may_change_what_a_resume_may_not(corpus, tmp_path, trunk):
    before = read_state(trunk)
    fork = small_config(corpus, tmp_path / "fork", checkpoint__fork_from=str(trunk), train__steps=12, optimizer__lr=0.1)
    assert run_ranks(pretrain, fork, 1) == [0]
    assert [row["step"] for row in read_metrics(tmp_path / "fork")] == [11, 12]
    assert read_metrics(tmp_path / "fork")[0]["train/lr"] > 3 * read_metrics(trunk)[-1]["train/lr"]
    assert all(tensor.equal(before[key]) for key, tensor in read_state(trunk).items())


def test_a_fork_has_a_name_of_its_own(corpus, trunk):
    plain, fork = small_config(corpus, trunk), small_config(corpus, trunk, checkpoint__fork_from=str(trunk))
    assert name_run(plain) != name_run(fork)


@pytest.mark.parametrize(
    ("given", "changes", "mend"),
    [
        ("{}@7", {}, "no checkpoint of that step; there are 5, 10"),
        ("{}@x", {}, "or RUN_DIR@STEP"),
        ("{}", {}, "at step 10 already, and this run ends at 10; raise train.steps"),
        ("{}@5", {"model__hidden_size": 32}, "model.hidden_size: 48 → 32 can't change"),
        ("{}@5", {"model__init_from": "somewhere"}, "model.init_from and checkpoint.fork_from: give one of them"),
    ],
)
def test_refusals(corpus, tmp_path, trunk, given, changes, mend):
    fork = small_config(corpus, tmp_path / "fork", checkpoint__fork_from=given.format(trunk), **changes)
    codes, errors = fail_ranks(pretrain, fork)
    assert codes == [2]
    assert mend in errors[0]
