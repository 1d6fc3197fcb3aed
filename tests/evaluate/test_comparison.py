"""Two evaluations are compared document by document, as a user does it."""

import dataclasses
import json

import pytest

from launch.cli import main
from trainer.evaluate.tasks.documents import Choice, DocumentTask, TaskDocument
from trainer.evaluate.tasks.results import as_records, write_results


def write_evaluation(folder, right, *, number=0, count=200):
    """An evaluation in which the documents of `right` were answered rightly."""
    documents = [
        TaskDocument(n, choices=[Choice("q", f" {letter}{number}", letter) for letter in "ab"], gold=0)
        for n in range(count)
    ]
    task = DocumentTask("letters", "1", "choice", ["acc", "f1_macro", "confusion_matrix"], documents)
    answers = [(0.0 - (choice == 0) * (n not in right), False) for n in range(count) for choice in range(2)]
    results = task.judge([(value - (i % 2) * 0.5, flag) for i, (value, flag) in enumerate(answers)], resamples=100)
    write_results(folder, results, as_records(results, model=f"model {folder.name}", step=None))
    return folder


def test_what_is_more_than_noise_is_said_in_a_table_and_a_page(tmp_path, capsys):
    one = write_evaluation(tmp_path / "one", range(100))
    two = write_evaluation(tmp_path / "two", range(150))
    near = write_evaluation(tmp_path / "near", [*range(1, 100), 120])
    page = tmp_path / "page.html"
    assert main(["evaluate", "compare", str(one), str(two), f"output={page}", "resamples=500"]) == 0
    printed = capsys.readouterr().out
    assert "| letters | acc | 200 | 0.5000 | 0.7500 | +0.2500 |" in printed
    assert printed.count("B is better") == 2  # the confusion matrix is no number
    assert "<td>B is better</td>" in page.read_text()
    assert main(["evaluate", "compare", str(two), str(one), "resamples=500"]) == 0
    assert capsys.readouterr().out.count("A is better") == 2
    assert main(["evaluate", "compare", str(one), str(near), "resamples=500"]) == 0
    assert capsys.readouterr().out.count("| noise |") == 2


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    one = write_evaluation(tmp_path / "one", range(100))
    other = write_evaluation(tmp_path / "other", range(100), number=1)
    assert main(["evaluate", "compare", str(one), str(other)]) == 0
    assert capsys.readouterr().out.count("other requests") == 2
    for arguments, message in (
        ([str(one)], "compare takes two evaluations, 1 given"),
        ([str(one), str(tmp_path)], "no results.json there or under evaluations/"),
        ([str(one), str(one), "resamples=many"], "resamples=many: give a number from 100"),
        ([str(one), str(one), "metric=acc"], "metric=acc: compare has no such key"),
    ):
        assert main(["evaluate", "compare", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    (one / "results.json").write_text('[{"task": 1}]')
    assert main(["evaluate", "compare", str(one), str(other)]) == 2
    assert "results.json" in capsys.readouterr().err


def test_a_figure_that_is_no_mean_of_its_values_is_not_compared_as_one(tmp_path, capsys):
    records = {}
    for name, values in (("one", [-2.0, -3.0]), ("two", [-1.0, -2.0])):
        folder = tmp_path / name
        (folder / "samples").mkdir(parents=True)
        record = {"task": "t", "version": "1", "metric": "perplexity", "value": 12.2, "stderr": None, "interval": None}
        records[name] = record | {"n": 2, "model": name, "step": None, "fingerprint": "f", "higher_is_better": False}
        (folder / "results.json").write_text(json.dumps([records[name]]))
        lines = [json.dumps({"doc_id": n, "metrics": {"perplexity": value}}) for n, value in enumerate(values)]
        (folder / "samples" / "t.jsonl").write_text("\n".join(lines))
    assert main(["evaluate", "compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    assert "| its figure isn't a mean |" in capsys.readouterr().out


def test_one_document_has_no_interval():
    task = DocumentTask(
        "t", "1", "choice", ["acc", "f1_macro"], [TaskDocument(0, choices=[Choice("q", " a", "a")] * 2)]
    )
    (outcome,) = task.judge([(0.0, True), (-1.0, False)], resamples=100)
    assert [each.low for each in outcome.measured] == [None, None]


def test_choices_are_judged_by_ties_characters_and_bytes():
    from trainer.evaluate.tasks.documents import choice_values

    document = TaskDocument(0, choices=[Choice("", f" {name}", name) for name in ("aaaa", "bb", "树树")], gold=1)
    values = choice_values(document, [(-4.0, False), (-4.0, True), (-4.0, False)])
    assert (values["acc"], values["acc_norm"], values["acc_bytes"]) == (0.0, 0.0, 0.0)  # ties: the first
    other = dataclasses.replace(document, gold=2)
    assert choice_values(other, [(-4.0, False), (-2.5, True), (-2.6, False)])["acc_bytes"] == 1.0
    assert values["exact_match"] == 1.0
    assert values["bits_per_byte"] == [-4.0, 3]
    assert values["calibration_error"] == [pytest.approx(1 / 3), False]
