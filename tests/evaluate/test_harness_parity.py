"""Figures, choices and log-likelihoods are those of lm-evaluation-harness's own backend on the exported model."""

import json

import pytest

from tests.evaluate.judged import configure, evaluate, results_in, samples_in, theirs
from tests.evaluate.olmes_subset import CLOZE, MORE
from tests.run_ranks import run_ranks

pytest.importorskip("lm_eval")
TASKS = [*CLOZE, *MORE]


@pytest.fixture(scope="module")
def reference(judged, tmp_path_factory):
    output = tmp_path_factory.mktemp("theirs") / "results.json"
    assert run_ranks(theirs, (judged.export, judged.tasks, [f"their_{task}" for task in TASKS], output), 1) == [0]
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def ours(judged, tmp_path_factory):
    """Both kinds of task, on two ranks."""
    output = tmp_path_factory.mktemp("ours") / "out"
    names = [f"{kind}_{task}" for kind in ("own", "their") for task in TASKS]
    config = configure(output, names, run_dir=judged.run, task_dir=str(judged.tasks), batch_tokens=600)
    assert run_ranks(evaluate, config, 2) == [0, 0]
    return output


@pytest.mark.parametrize("kind", ["own", "their"])
def test_every_choice_likelihood_and_figure_is_that_of_the_harness_s_own_backend(reference, ours, kind):
    results, furthest = results_in(ours), 0.0
    assert len(TASKS) >= 10
    for task in TASKS:
        expected = reference["results"][f"their_{task}"]
        for metric in ("acc", "acc_norm", "acc_bytes"):
            record = results[f"{kind}_{task}", metric]
            assert record["value"] == expected[f"{metric},none"], (task, metric)
            assert record["stderr"] == pytest.approx(expected[f"{metric}_stderr,none"], abs=1e-12)
        theirs = reference["samples"][f"their_{task}"]
        for sample, other in zip(samples_in(ours, f"{kind}_{task}"), theirs, strict=True):
            found, wanted = sample["answers"], other["filtered_resps"]
            furthest = max(furthest, *(abs(a[0] - float(b[0])) for a, b in zip(found, wanted, strict=True)))
            assert [a[1] for a in found] == [str(b[1]) == "True" for b in wanted]
            assert sample["metrics"]["acc_norm"] == other["acc_norm"]
    assert 0 < furthest < 1e-4


def test_figures_differ_among_tasks_so_that_equality_says_something(ours):
    values = {record["value"] for record in results_in(ours).values()}
    assert len(values) > 4
