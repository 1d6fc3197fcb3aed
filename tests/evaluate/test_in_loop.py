"""Tasks while training: the same figures on any number of ranks and at any ZeRO stage, whatever is killed."""

import json
import time
from pathlib import Path

import pytest

from tests.evaluate.judged import configure as configure_verb
from tests.evaluate.judged import evaluate, results_in
from tests.run_ranks import fail_ranks, pretrain, run_ranks, small_config, start_ranks
from tests.states import assert_equal_states

SHAPES = [
    (1, {}),
    (2, {"parallel__zero_stage": 3}),
    pytest.param(2, {}, marks=pytest.mark.full),
    pytest.param(1, {"parallel__zero_stage": 3}, marks=pytest.mark.full),
    pytest.param(4, {}, marks=pytest.mark.full),
    pytest.param(4, {"parallel__zero_stage": 3}, marks=pytest.mark.full),
    pytest.param(4, {"parallel__zero_stage": 3, "parallel__tensor": 2}, marks=pytest.mark.full),
    pytest.param(2, {"parallel__sequence": 2, "parallel__zero_stage": 2}, marks=pytest.mark.full),
]


@pytest.fixture(scope="module")
def tasks(judged, tmp_path_factory):
    """A folder with the tasks of `judged`, and one that generates."""
    folder = tmp_path_factory.mktemp("tasks")
    for path in judged.tasks.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "words.jsonl").write_text(
        "".join(json.dumps({"begin": f"the {word}", "end": "tree"}) + "\n" for word in ("red", "rain", "water", "root"))
    )
    (folder / "words.yaml").write_text(
        'kind: generate\ndata: words.jsonl\nprompt: "{{begin}}"\ntarget: end\nuntil: [stone]\nmax_tokens: 9\n'
        "metrics: [squad_f1, exact_match]\n"
    )
    return folder


def configure(judged, tasks, run_dir, names, **changes):
    settings = {
        "data__sequence_length": 96,
        "train__steps": 4,
        "evaluate__tasks": names,
        "evaluate__task_dir": str(tasks),
        "evaluate__tasks_every": 2,
        "evaluate__batch_tokens": 300,
        **changes,
    }
    return small_config(judged.data, run_dir, **settings)


def task_rows(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith("eval/"):
                found[row["step"], key] = value
    return found


@pytest.fixture(scope="module")
def alone(judged, tasks, tmp_path_factory):
    """Figures of a model that doesn't learn, on one rank."""
    pytest.importorskip("lm_eval")
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    names = ["own_arc_easy", "their_rte", "words"]
    assert run_ranks(pretrain, configure(judged, tasks, run_dir, names, optimizer__lr=0.0), 1) == [0]
    return task_rows(run_dir)


@pytest.mark.parametrize(("world_size", "shape"), SHAPES[1:])
def test_figures_are_the_same_on_any_ranks_at_any_stage(judged, tasks, alone, tmp_path, world_size, shape):
    names = ["own_arc_easy", "their_rte", *([] if "parallel__sequence" in shape else ["words"])]
    config = configure(judged, tasks, tmp_path / "run", names, optimizer__lr=0.0, **shape)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    found = task_rows(tmp_path / "run")
    expected = {key: value for key, value in alone.items() if any(f"/{name}/" in key[1] for name in names)}
    assert {step for step, _ in found} == {2, 4}
    if "parallel__tensor" in shape or "parallel__sequence" in shape:  # sums in another order
        assert found == {key: pytest.approx(value, abs=1e-6) for key, value in expected.items()}
    else:
        assert found == expected


def pretrain_stuck_in_tasks(config):
    """The verb, stuck in the second evaluation by tasks, after a batch of it: the moment at which it is killed."""
    from trainer.evaluate.tasks.answer import Answering

    find, losses = Answering.find, Answering._losses
    finds, batches = [], []

    def counted(self, work):
        finds.append(work)
        return find(self, work)

    def stuck(self, rows, misses):
        batches.append(len(finds))
        if batches.count(2) == 2:
            Path(config.run.dir).with_name("stuck").touch()
            time.sleep(600)
        return losses(self, rows, misses)

    Answering.find, Answering._losses = counted, stuck
    return pretrain(config)


def test_a_run_killed_in_an_evaluation_is_as_the_undisturbed_one_and_watches_a_task(judged, tasks, tmp_path):
    changes = {
        "train__steps": 6,
        "checkpoint__every": 3,
        "evaluate__watch": "own_piqa/acc_norm",
        "checkpoint__keep_best": True,
        "checkpoint__keep": 9,
    }
    names = ["own_piqa", "words"]
    calm = configure(judged, tasks, tmp_path / "calm", names, **changes)
    assert run_ranks(pretrain, calm, 1) == [0]
    config = configure(judged, tasks, tmp_path / "disturbed", names, **changes)
    ranks = start_ranks(pretrain_stuck_in_tasks, config, 1)
    deadline = time.monotonic() + 120
    while not (tmp_path / "stuck").exists():
        assert time.monotonic() < deadline
        assert ranks.processes[0].is_alive()
        time.sleep(0.01)
    ranks.kill()
    assert run_ranks(pretrain, config, 1) == [0]
    assert task_rows(tmp_path / "disturbed") == task_rows(tmp_path / "calm")
    assert_equal_states(tmp_path / "calm", tmp_path / "disturbed")

    rows = {key: value for key, value in task_rows(tmp_path / "calm").items() if key[1] == "eval/own_piqa/acc_norm"}
    best = max(rows.values())
    first = min(step for (step, _), value in rows.items() if value == best)
    assert (tmp_path / "calm" / "checkpoints" / f"step-{first:08d}").is_dir()

    verb = configure_verb(tmp_path / "out", names, run_dir=tmp_path / "calm", task_dir=str(tasks), batch_tokens=300)
    assert run_ranks(evaluate, verb, 1) == [0]
    after = {
        f"eval/{task}/{metric}": record["value"] for (task, metric), record in results_in(tmp_path / "out").items()
    }
    assert {key: value for (step, key), value in task_rows(tmp_path / "calm").items() if step == 6} == after


def test_a_metric_that_no_task_has_is_not_watched(judged, tasks, tmp_path):
    config = configure(judged, tasks, tmp_path / "run", ["own_piqa"], evaluate__watch="own_piqa/bleu")
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [2]
    assert "evaluate.watch=own_piqa/bleu: no such metric of evaluate.tasks; choose one of own_piqa/acc" in errors[0]
