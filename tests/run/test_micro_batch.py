"""The micro-batch that is measured: which is chosen, that it stays, and that it changes nothing else."""

import json
import resource
import time
from pathlib import Path

import pytest
import torch

from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.errors import ConfigError
from trainer.rules.pretrain import check_pretrain
from trainer.run.micro_batch import choose_size, describe_choice
from trainer.run.micro_batch_timing import Timing

SLOW, FAST, LARGE = (
    Timing(1, inner_s=1.0, last_s=1.2, bytes=10**9),
    Timing(2, inner_s=1.5, last_s=1.7, bytes=2 * 10**9),
    Timing(4, inner_s=2.99, last_s=3.19, bytes=4 * 10**9),
)


def test_the_smallest_that_is_nearly_the_fastest_is_chosen():
    assert choose_size([SLOW, FAST, LARGE], share=8) == 2
    assert choose_size([SLOW], share=8) == 1


def test_all_that_was_measured_is_told():
    line = describe_choice(2, [SLOW, FAST], 4, share=8)
    assert line == (
        "train.micro_batch_size=2, of those measured a step (1: 8.2 s, 1.0 GB; 2: 6.2 s, 2.0 GB; 4: doesn't fit)"
    )


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [(2, {"parallel__zero_stage": 2}), pytest.param(1, {"data__mask_documents": True}, marks=pytest.mark.full)],
)
def test_measured_once_then_kept_and_else_the_run_is_one_with_that_number(corpus, tmp_path, ranks, changes):
    measured, given = tmp_path / "measured", tmp_path / "given"
    config = small_config(corpus, measured, train__micro_batch_size="auto", train__stop_at=2, **changes)
    assert run_ranks(pretrain, config, ranks) == [85] * ranks
    record = json.loads((measured / "micro_batch.json").read_text())
    share = config.train.batch_size // ranks
    assert record["measured"][0]["size"] == 1
    assert all(share % timing["size"] == 0 for timing in record["measured"])
    size = record["micro_batch_size"]
    assert size in [timing["size"] for timing in record["measured"]]

    record["micro_batch_size"] = size = next(other for other in (2, 1) if other != size)  # not what a clock says
    (measured / "micro_batch.json").write_text(json.dumps(record))
    config.train.stop_at = None
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    assert f"micro_batch_size: {size}" in (measured / "config.yaml").read_text()
    assert run_ranks(pretrain, small_config(corpus, given, **changes), ranks) == [0] * ranks
    losses = [[row["train/loss"] for row in read_metrics(folder)] for folder in (measured, given)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.full
def test_a_run_with_the_measured_size_is_the_run_that_was_told_it(corpus, tmp_path):
    measured, given = tmp_path / "measured", tmp_path / "given"
    assert run_ranks(pretrain, small_config(corpus, measured, train__micro_batch_size="auto"), 1) == [0]
    size = json.loads((measured / "micro_batch.json").read_text())["micro_batch_size"]
    assert run_ranks(pretrain, small_config(corpus, given, train__micro_batch_size=size), 1) == [0]
    assert_equal_states(measured, given)


def pretrain_in_little_memory(config):
    """The verb, with address space for 1.2 GB more than what is taken already."""
    import psutil

    limit = psutil.Process().memory_info().vms + 1200 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return pretrain(config)


AUTO = {"train__micro_batch_size": "auto", "train__steps": 1, "evaluate__every": 0}


def test_a_size_that_takes_too_much_memory_is_left_out(corpus, tmp_path):
    wide = {"train__batch_size": 131, "model__intermediate_size": 2**14}  # a prime: all at once, or one by one
    config = small_config(corpus, tmp_path / "run", **AUTO, **wide)
    assert run_ranks(pretrain_in_little_memory, config, 1) == [0]
    record = json.loads((tmp_path / "run/micro_batch.json").read_text())
    assert [timing["size"] for timing in record["measured"]] == [1]
    assert "allocate memory" in (tmp_path / "run/logs/micro-batch-00000.log").read_text()


@pytest.mark.full
def test_it_is_refused_where_nothing_fits(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", **AUTO, model__intermediate_size=2**20)
    codes, errors = fail_ranks(pretrain_in_little_memory, config)
    assert codes == [2]
    assert "not even 1 sequence of 32 tokens fits; raise parallel.zero_stage" in errors[0]


def test_what_cant_be_measured_is_refused(corpus, tmp_path):
    config = small_config(corpus, tmp_path, train__micro_batch_size="car")
    with pytest.raises(ConfigError, match=r"micro_batch_size=car: give a number of sequences, or auto"):
        check_pretrain(config, 1)
    config = small_config(corpus, tmp_path, train__micro_batch_size="auto", model__dropout=0.1)
    with pytest.raises(ConfigError, match=r"model.dropout needs train.micro_batch_size"):
        check_pretrain(config, 1)
    config = small_config(corpus, tmp_path, train__micro_batch_size="auto", launch__name="ray", launch__workers=[1, 2])
    with pytest.raises(ConfigError, match=r"auto with a range of launch.workers"):
        check_pretrain(config, 1)


def measuring_compiled(config):
    """Times two sizes with compiled blocks; leaves the shapes of every graph's inputs, and what was timed."""
    from torch._dynamo.backends.registry import lookup_backend

    from trainer.run.micro_batch_timing import measure_all

    shapes, compile_as_asked, backend = [], torch.compile, lookup_backend("aot_eager")

    def noted(graph, inputs):
        shapes.append([str(each) for each in inputs[0].shape])
        time.sleep(0.5)  # as long as it takes to compile
        return backend(graph, inputs)

    torch.compile = lambda function, **options: compile_as_asked(function, backend=noted, **options)
    sizes = [timing.size for timing in measure_all(config, [1, 2, 4], budget_s=1.5)]
    Path(f"{config.run.dir}.json").write_text(json.dumps({"shapes": shapes, "sizes": sizes}))
    return 0


def test_every_size_is_compiled_by_itself_and_compiling_does_not_count_against_the_budget(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", train__compile=True, model__vocab_size=300)
    assert run_ranks(measuring_compiled, config, 1) == [0]
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["sizes"] == [1, 2, 4]
    assert len(found["shapes"]) == 6  # of a block and of the loss, at each size: nothing is compiled anew
    assert all(size.isdigit() for shape in found["shapes"] for size in shape)  # and no size is left open
