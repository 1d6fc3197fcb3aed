"""A model that no rank holds whole is judged after training: figures as if one rank had it."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from tests.evaluate.judged import configure, evaluate, results_in, samples_in
from tests.run_ranks import fail_ranks, pretrain, run_ranks, small_config

TASKS = ["own_arc_easy", "own_rte", "words"]
SHAPES = [
    (2, {"zero_stage": 3}),
    pytest.param(2, {"tensor": 2}, marks=pytest.mark.full),
    pytest.param(4, {"tensor": 2, "zero_stage": 3}, marks=pytest.mark.full),
    pytest.param(3, {"zero_stage": 3}, marks=pytest.mark.full),
]


def in_parts(config, parallel):
    for name, value in parallel.items():
        setattr(config.parallel, name, value)
    return config


def evaluate_quietly(config):
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluate(config)


@pytest.fixture(scope="module")
def tasks(judged, tmp_path_factory):
    """A folder with tasks of `judged`, and one that generates."""
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("arc_easy", "rte"):
        (folder / f"{name}.yaml").symlink_to(judged.tasks / f"{name}.yaml")
    lines = [json.dumps({"begin": f"the {word}", "end": "tree"}) for word in ("red", "rain", "water")]
    (folder / "words.jsonl").write_text("\n".join(lines))
    (folder / "words.yaml").write_text(
        'kind: generate\ndata: words.jsonl\nprompt: "{{begin}}"\ntarget: end\nuntil: [stone]\nmax_tokens: 9\n'
        "metrics: [squad_f1]\n"
    )
    return folder


@pytest.fixture(scope="module")
def whole(judged, tasks, tmp_path_factory):
    """Results of tasks and of losses, of a model that the rank holds whole."""
    return judge_both(judged, tasks, tmp_path_factory.mktemp("whole") / "out", 1, {})


def judge_both(judged, tasks: Path, output: Path, world_size: int, parallel):
    for names in (TASKS, []):
        config = configure(output, names, run_dir=judged.run, task_dir=str(tasks))
        config.data.path = None if names else str(judged.data)
        assert run_ranks(evaluate_quietly, in_parts(config, parallel), world_size) == [0] * world_size
    return output


def assert_equal_results(one: Path, two: Path, tolerance: float) -> None:
    expected, found = results_in(one), results_in(two)
    assert found.keys() == expected.keys()
    assert len(found) > 6
    for key, record in expected.items():
        assert found[key]["value"] == pytest.approx(record["value"], abs=tolerance), key
        assert found[key]["fingerprint"] == record["fingerprint"]
    for ours, theirs in zip(samples_in(two, "own_rte"), samples_in(one, "own_rte"), strict=True):
        for answer, other in zip(ours["answers"], theirs["answers"], strict=True):
            assert answer[0] == pytest.approx(other[0], abs=tolerance * 100)
            assert answer[1] == other[1]


@pytest.mark.parametrize(("world_size", "parallel"), SHAPES)
def test_figures_are_those_of_the_whole_model(judged, tasks, whole, tmp_path, world_size, parallel):
    found = judge_both(judged, tasks, tmp_path / "out", world_size, parallel)
    assert_equal_results(whole, found, 1e-6 if "tensor" in parallel else 0.0)


@pytest.mark.full
@pytest.mark.parametrize("trained", [{}, {"parallel__zero_stage": 3}])
@pytest.mark.parametrize(("world_size", "parallel"), [(2, {"zero_stage": 3}), (2, {"tensor": 2})])
def test_a_run_in_bf16_and_its_average_compute_as_they_do(judged, tasks, tmp_path, trained, world_size, parallel):
    changes = {"train__precision": "bf16", "train__ema": 0.5, "data__sequence_length": 96, **trained}
    assert run_ranks(pretrain, small_config(judged.data, tmp_path / "run", **changes), 1) == [0]
    for ema in (False, True):
        folders = []
        for name, ranks, layout in (("whole", 1, {}), ("parts", world_size, parallel)):
            folders.append(tmp_path / f"{name}-{ema}")
            config = in_parts(configure(folders[-1], TASKS, run_dir=tmp_path / "run", task_dir=str(tasks)), layout)
            config.checkpoint.ema = ema
            assert run_ranks(evaluate_quietly, config, ranks) == [0] * ranks
        if "tensor" in parallel:  # products of parts are rounded to bf16, then added
            values = [results_in(folder)["own_arc_easy", "acc_norm"]["value"] for folder in folders]
            assert values[1] == pytest.approx(values[0], abs=0.26)
        else:
            assert_equal_results(*folders, tolerance=0.0)


def test_what_cannot_be_in_parts_is_refused(judged, tmp_path):
    for world_size, parallel, changes, message in (
        (1, {"tensor": 2}, {"run_dir": judged.run}, "parallel.tensor=2: doesn't divide the 1 ranks"),
        (1, {"zero_stage": 2}, {"run_dir": judged.run}, "parallel: evaluate takes zero_stage=3"),
        (1, {"zero_stage": 3}, {"path": judged.export}, "a Hugging Face folder is held whole by each rank"),
    ):
        config = in_parts(configure(tmp_path / "out", ["bias_en"], **changes), parallel)
        codes, errors = fail_ranks(evaluate, config, world_size)
        assert codes == [2] * world_size
        assert message in errors[0]
