"""`banyan data labels FILE`: table, JSON, exit codes."""

import json
import sys

import pytest

from launch.cli import main as banyan
from trainer.errors import ConfigError, InputError
from trainer.verbs.data import main


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.jsonl"
    rows = [("a", "x", "x"), ("b", "x", "y"), ("c\x1b[31m", "y", "y")]
    records = [{"text": text, "annotations": {"anna": one, "ben\n": other}} for text, one, other in rows]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_table_and_json_say_the_same_and_nothing_steers_the_terminal(labels, tmp_path, capsys):
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    assert main(["labels", str(labels), f"gold={gold}", f"json={tmp_path / 'o.json'}"]) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["agreement"]["pairs"][0]["kappa"] == pytest.approx(0.4)
    assert "0.4000" in text
    assert r"ben\n" in text
    assert "\x1b" not in text
    assert report["gold"]["accuracies"][0]["accuracy"] == 0.75
    assert [each["labels"] for each in report["disagreements"]] == [{"anna": "x", "ben\n": "y"}]
    assert main(["labels", str(labels), "json=-"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 3


def test_a_record_that_is_not_as_the_schema_file_says_is_a_line_and_exit_code_2(labels, tmp_path, capsys):
    schema = tmp_path / "schema.json"
    schema.write_text('{"kind": "classification", "labels": ["x"]}')
    assert banyan(["data", "labels", str(labels), f"schema={schema}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(r"""line 2, field annotations.ben\n: "y" isn't one of x""")
    assert lines[-1].startswith("banyan: ")
    assert "2 problems in 3 records" in lines[-1]


@pytest.mark.parametrize(
    "arguments",
    [[], ["list=x"], ["kind=poem"], ["scheme=bio"], ["colour=red"], ["distance=far"], ["gold="], ["schema=none.json"]],
)
def test_wrong_settings_are_one_line(labels, arguments):
    files = [str(labels)] if arguments else ["a", "b"]
    with pytest.raises((ConfigError, InputError)) as error:
        main(["labels", *files, *arguments])
    assert "\n" not in str(error.value)


def test_a_missing_library_is_named_with_the_extra(labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.metrics.agreement", None)
    with pytest.raises(InputError, match=r"needs the package nltk, which is missing: pip install \"banyan-train\[data"):
        main(["labels", str(labels)])
