"""A run with two kills, another layout, two validation sets and noise in its data, as it is told afterwards."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from launch.verbs import VERBS
from tests.report.run_page.page_of import CHROMIUM, Elements, open_in_chromium
from tests.run import story
from trainer.track.catalogue import LOGGED, find_logged
from trainer.track.sinks.starts import read_lives
from trainer.track.spike_record import read_spikes
from trainer.verbs import data as data_verb
from trainer.verbs import logs as logs_verb
from trainer.verbs import report as report_verb
from trainer.verbs import status as status_verb

DOCS = Path(__file__).parents[2] / "docs" / "WATCHING.md"
RULE = "killed without a word"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return story.tell(tmp_path_factory.mktemp("story"))


@pytest.fixture(scope="module")
def page(told):
    assert report_verb.main([str(told[0])]) == 0
    return Elements((told[0] / "report.html").read_text())


def test_starts_tell_of_each_kill_and_what_it_undid(told):
    first, second, third = read_lives(told[0])
    assert "rank 1 was killed by SIGKILL" in first.reason
    assert (second.ended, second.reason) == (False, "")
    assert third.end.reason == "finished"
    assert [each.start.ranks for each in (first, second, third)] == [2, 2, 1]
    assert [each.start.layout["zero_stage"] for each in (first, second, third)] == [1, 1, 0]
    assert first.start.step == 0
    assert second.start.step % story.SAVED_EVERY == third.start.step % story.SAVED_EVERY == 0
    assert second.start.lost_steps == second.start.logged - second.start.step > 0


def test_status_tells_it(told, capsys):
    assert status_verb.main([str(told[0]), "format=json"]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["state"], status["lives"], status["step"]) == ("finished", False, story.STEPS)
    assert "SIGKILL" in status["restarts"][0]["reason"]
    assert RULE in status["restarts"][1]["reason"]
    assert set(status["evaluations"]) >= {"eval/poems/loss", "eval/validation/loss"}
    assert status["checkpoint_step"] == story.STEPS
    assert status_verb.main([str(told[0])]) == 0
    shown = capsys.readouterr().out
    for said in ("<b>story: finished", "restarts   2", "1 rank, ZeRO 0", "72 of 72", RULE, "go on with"):
        assert said in shown


def test_the_page_tells_it(told, page):
    (run,) = page.data["runs"]
    loss = page.data["charts"][0]
    assert [line["label"] for line in loss["lines"]] == ["train", "poems", "validation"]
    assert len(run["marks"]) == 2
    assert "rank 1 was killed by SIGKILL" in run["marks"][0]["text"]
    assert RULE in run["marks"][1]["text"]
    assert run["marks"][0]["time"] < run["marks"][1]["time"] <= run["time"][-1]
    assert told[1] in [step for step, _ in run["spikes"]]
    assert page.text.count("(changed)") == 1
    for said in ("not measured", "Samples over time", "<i>rain</i>", "Operators", "aten::", "SIGKILL to all"):
        assert said in page.text, said


def test_the_page_has_what_the_run_recorded_of_spikes_and_layers(told, page):
    run_dir, bad = told
    recorded = read_spikes(run_dir)
    assert bad in [spike.step for spike in recorded]
    (run,) = page.data["runs"]
    assert [step for step, _ in run["spikes"]] == [spike.step for spike in recorded]
    assert "standard deviations of the 64 before it, of which 32 must be there" in page.text
    maps = {each["title"]: each for each in page.data["maps"]}
    assert len(maps) == 8  # all but those of experts
    lines = [json.loads(line) for line in (run_dir / "layers.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(4, story.STEPS + 1, 4))
    gradients = maps["Norm of gradients"]
    assert gradients["labels"] == lines[0]["layers"]
    columns = [list(column) for column in zip(*gradients["cells"], strict=True)]
    assert columns == [[float(f"{value:.4g}") for value in line["grad_norm"]] for line in lines]


def test_a_spike_leads_to_its_documents(told, page, capsys):
    _run_dir, bad = told
    spike = page.text.split(f"Step {bad}: loss")[1].split("Step ")[0]
    assert f"texts.jsonl {story.NOISE_RECORD} " in spike
    command = next(text for text in page.texts if text.startswith("banyan data at") and text.endswith(f"step={bad}"))
    assert data_verb.main(shlex.split(command)[2:]) == 0
    assert f"texts.jsonl, record {story.NOISE_RECORD}: " in capsys.readouterr().out


def test_logs_begin_with_the_first_error_and_have_what_was_printed(told, capsys):
    assert logs_verb.main([str(told[0]), "lines=10000"]) == 0  # it follows, and ends since nobody works on the run
    shown = capsys.readouterr().out
    assert "first error" not in shown  # of the last start, which had none
    assert "launcher" in shown
    assert "rank 1 was killed by SIGKILL" in shown
    assert f"step {story.STEPS}/{story.STEPS}" in shown
    assert re.search(r"rank 0 +\S+ \S+  ERROR RuntimeError", shown)


def test_every_metric_it_logged_is_in_the_list(told):
    rows = [json.loads(line) for line in (told[0] / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row} - {"step", "tokens", "time"}
    assert len(names) > 10
    assert [name for name in names if find_logged(name) is None] == []


def test_the_guide_has_the_list():
    listed = re.findall(r"^\| `([^`]+)` \| ([^|]*) \| ([^|]*) \|$", DOCS.read_text(), flags=re.MULTILINE)
    assert [tuple(cell.strip() for cell in row) for row in listed] == [
        (metric.name, metric.unit, metric.meaning) for metric in LOGGED
    ]


def test_the_guides_commands_run(told, tmp_path, capsys):
    """Each line of its first block, with this run in the place of runs/NAME."""
    block = re.search(r"```\n(banyan .*?)```", DOCS.read_text(), re.DOTALL)[1]
    for line in block.splitlines():
        verb, *arguments = shlex.split(line.split("#")[0].replace("runs/OTHER", "runs/NAME"))[1:]
        arguments = [argument.replace("runs/NAME", str(told[0])) for argument in arguments]
        if verb == "report" and len([each for each in arguments if "=" not in each]) > 1:
            arguments.append(f"output={tmp_path}")
        module = {"status": status_verb, "logs": logs_verb, "report": report_verb, "data": data_verb}[verb]
        assert verb in VERBS
        assert module.main(arguments) == 0, line
    capsys.readouterr()


def test_a_sweep_is_its_trials_beside_each_other(told, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    for number in range(2):
        shutil.copytree(
            told[0], sweep / "trials" / f"{number:05d}" / "run", ignore=shutil.ignore_patterns("checkpoints")
        )
    (sweep / "plan.json").write_text("{}")
    law = {"law": {"a": {"value": 16.45, "interval": [14.28, 40.38]}}, "worst_error": 0.01, "runs": [{"tokens": 5000}]}
    trials = [{"trial": number, "loss": loss, "lr": "</table>"} for number, loss in enumerate((2.5, 1.5))]
    (sweep / "results.json").write_text(
        json.dumps({"trials": trials, "importance": {"optimizer.lr": 0.9}, "ladder": law})
    )
    assert report_verb.main([str(sweep)]) == 0
    page = Elements((sweep / "report.html").read_text())
    assert [run["name"] for run in page.data["runs"]] == ["trial 00000", "trial 00001"]
    assert "0 1.5 </table>" not in page.text.split("the best first")[0]
    assert page.text.split("the best first")[1].index("1.5") < page.text.split("the best first")[1].index("2.5")
    assert "optimizer.lr 0.9" in page.text
    assert "worst_error 0.01 law value interval a 16.45 14.28 to 40.38 runs tokens 5,000" in page.text
    (sweep / "results.json").write_text("[")
    assert report_verb.main([str(sweep)]) == 0
    assert "results.json: " in capsys.readouterr().out


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_is_drawn_without_a_complaint(told, page, tmp_path):
    copy = tmp_path / "report.html"
    copy.write_text((told[0] / "report.html").read_text())
    dom, complaints = open_in_chromium(copy, tmp_path)
    assert complaints == []
    assert "data-drawn=" in dom
