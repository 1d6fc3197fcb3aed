"""What plan predicts for runs that others published, on rows that its constants were not fitted to."""

import statistics

import pytest

from tests.benchmarks.plan_fit import committed, errors_of, fit
from tests.planning.published_runs import FOLDER, halves, published_runs


def test_halves_are_decided_by_the_rows_alone():
    fitted, held_out = halves(published_runs())
    again = halves(published_runs()[::-1])
    assert [{run.name for run in half} for half in again] == [{run.name for run in half} for half in (fitted, held_out)]
    assert not {run.name for run in fitted} & {run.name for run in held_out}
    assert abs(len(fitted) - len(held_out)) <= len(list(FOLDER.glob("*.yaml")))
    assert len(held_out) > 100


def test_rows_not_used_for_the_fit_are_predicted():
    errors = errors_of(halves(published_runs())[1], committed())
    assert statistics.median(errors) <= 0.06
    assert max(errors) <= 0.30


def test_runs_on_several_nodes_are_predicted_as_well_as_those_on_one():
    several = [run for run in halves(published_runs())[1] if run.facts["devices"] > run.facts["per_node"]]
    assert len(several) > 20
    assert statistics.median(errors_of(several, committed())) <= 0.12


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_says_where_it_was_read_and_what_it_leaves_out(path):
    text = path.read_text()
    assert all(f"\n{key}:" in text for key in ("source", "commit", "read", "left_out"))
    assert "https://" in text


@pytest.mark.full
def test_the_committed_constants_are_those_of_the_fit():
    assert fit(halves(published_runs())[0]) == pytest.approx(committed(), rel=0.02)
