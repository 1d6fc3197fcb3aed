"""Dashboards as code: what is posted is what the file says, twice is one view, and a wrong file is one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch.cli import main
from launch.compose import compose
from tests.track import wandb_server

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_wandb(monkeypatch, tmp_path):
    with wandb_server.own_wandb(monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        yield


@pytest.fixture
def server(monkeypatch):
    with wandb_server.reachable_server(monkeypatch) as server:
        yield server


def views(server):
    return {view["type"]: view for view in server.views.values()}


def test_workspace_and_report_are_posted_read_back_and_updated(server, capsys):
    assert main(["dashboard", "track.wandb.project=trees"]) == 0
    import wandb_workspaces.workspaces as ws

    first = capsys.readouterr().out
    assert [line.split()[:2] for line in first.splitlines()] == [["workspace", "made:"], ["report", "made:"]]
    spec = compose("dashboard", []).dashboard
    stored = views(server)
    assert {view["entityName"] for view in stored.values()} == {wandb_server.ENTITY}
    assert {view["projectName"] for view in stored.values()} == {"trees"} == server.projects

    read = ws.Workspace.from_url(first.split()[2])  # by the library, over HTTP
    assert (read.name, read.settings.x_axis) == ("Banyan", "tokens")
    assert [section.name for section in read.sections] == [section.title for section in spec.sections.values()]
    for section, said in zip(read.sections, spec.sections.values(), strict=True):
        assert len(section.panels) == len(said.panels)
        for panel, meant in zip(section.panels, said.panels.values(), strict=True):
            if meant.kind == "line":
                assert ([y.name for y in panel.y], panel.metric_regex, panel.title) == (
                    meant.metrics,
                    meant.regex,
                    meant.title,
                )
            if meant.kind == "media":
                assert panel.media_keys == meant.media
    chapters = [
        block["children"][0]["text"] for block in json.loads(stored["runs"]["spec"])["blocks"] if "level" in block
    ]
    assert chapters == [section.title for section in spec.sections.values()]

    assert main(["dashboard", "track.wandb.project=trees", "dashboard.x=step"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["updated:", "updated:"]
    assert len(server.views) == 2
    assert [view["id"] for view in views(server).values()] == [view["id"] for view in stored.values()]
    assert ws.Workspace.from_url(first.split()[2]).settings.x_axis == "step"

    assert main(["dashboard", "track.wandb.project=trees", "dashboard.name=Another"]) == 0
    assert len(server.views) == 4


def test_a_view_that_a_person_made_under_the_same_title_is_left_alone(server):
    server.projects.add("trees")
    theirs = {"name": "nw-abc-v", "displayName": "Banyan", "type": "project-view", "projectName": "trees", "spec": "{}"}
    server._UpsertView2(theirs)
    assert main(["dashboard", "track.wandb.project=trees"]) == 0
    assert server.views["V0"] == {**theirs, "id": "V0"}
    assert len(server.views) == 3


def test_without_access_the_json_is_written_and_says_so(capsys, tmp_path):
    assert main(["dashboard"]) == 0
    assert "W&B isn't changed" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "dashboards").iterdir()} == {"workspace.json", "report.json"}


def test_a_server_that_never_answers_costs_seconds_and_the_json_is_there(server, capsys, tmp_path):
    server.silent = True
    assert main(["dashboard", "track.wandb.init_timeout_s=1"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("W&B: ")
    assert "run the same command again" in said
    assert (tmp_path / "dashboards" / "report.json").is_file()


def test_the_json_is_the_same_in_another_process_and_no_network_is_used(server, tmp_path):
    assert main(["dashboard", "dashboard.output=here"]) == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launch", "dashboard", f"dashboard.output={tmp_path / 'there'}"]
    subprocess.run(command, env=environment, check=True, cwd=tmp_path)
    for name in ("workspace.json", "report.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert not server.views


def write_spec(path, **panel):
    path.write_text(yaml.safe_dump({"name": "Mine", "sections": {"some": {"panels": {"one": panel}}}}))
    return path


def test_a_file_of_ones_own_and_a_choice_in_a_folder_of_ones_own(tmp_path, capsys):
    spec = write_spec(tmp_path / "mine.yaml", metrics=["train/loss"], log_y=True)
    assert main(["dashboard", f"dashboard={spec}", "dashboard.output=a"]) == 0
    workspace = json.loads((tmp_path / "a" / "workspace.json").read_text())
    assert workspace["title"] == "Mine"
    assert workspace["spec"]["section"]["panelBankConfig"]["sections"][0]["panels"][0]["config"]["yLogScale"]
    (tmp_path / "conf" / "dashboard").mkdir(parents=True)
    (tmp_path / "conf" / "dashboard" / "ours.yaml").write_text(
        "defaults: [health, _self_]\nname: Ours\nsections: {more: {panels: {lr: {metrics: [train/lr]}}}}\n"
    )
    assert main(["dashboard", "--config-dir", "conf", "dashboard=ours", "dashboard.output=b"]) == 0
    workspace = json.loads((tmp_path / "b" / "workspace.json").read_text())
    assert [each["name"] for each in workspace["spec"]["section"]["panelBankConfig"]["sections"]] == ["Health", "More"]


@pytest.mark.parametrize(
    ("panel", "said"),
    [
        ({"metrics": ["train/los"]}, "train/los: no run logs such a metric; did you mean train/loss?"),
        ({"metrics": ["accuracy"]}, "accuracy: no run logs such a metric"),
        ({"regex": "eval/(/loss"}, "regex 'eval/(/loss': missing ), unterminated subpattern"),
        ({"regex": "eval/(?!en).*"}, "aren't of RE2"),
        ({}, "empty; kind=line shows metrics or regex"),
        ({"title": "only"}, "empty"),
        ({"metrics": ["train/loss"], "regex": "x"}, "choose one"),
        ({"kind": "scatter", "metrics": ["train/loss"], "config": ["optimizer.rate"]}, "pretrain has no such key"),
        ({"kind": "scatter", "metrics": ["train/loss"]}, "config must be one"),
        ({"kind": "bar", "regex": "eval/.*"}, "empty; kind=bar shows metrics"),
        ({"kind": "media", "media": ["photos"]}, "media photos: no run logs it"),
        ({"kind": "pie", "metrics": ["train/loss"]}, "kind=pie: not known"),
        ({"metric": ["train/loss"]}, "metric: no such key"),
        ({"metrics": "train/loss"}, "metrics: must be list"),
        ({"metrics": ["train/loss"], "smoothing": 2}, "must be at least 0 and at most 0.999"),
    ],
)
def test_a_wrong_panel_is_one_line_that_names_file_section_and_panel(panel, said, tmp_path, capsys):
    spec = write_spec(tmp_path / "mine.yaml", **panel)
    assert main(["dashboard", f"dashboard={spec}", "dashboard.output=a"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert all(word in line for word in (str(spec), "some", "one"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n", "no sections"),
        ("sections: {a: {panels: {}}}\n", "section a: no panels"),
        ("sections: [\n", "can't be read as YAML"),
        ("output: elsewhere\nsections: {}\n", "output: not of a file"),
        ("- 1\n", "holds no configuration"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(text, said, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["dashboard", "dashboard=mine.yaml", "dashboard.output=a"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "mine.yaml" in line


def test_keys_beside_a_file_are_refused(tmp_path, capsys):
    spec = write_spec(tmp_path / "mine.yaml", metrics=["train/loss"])
    assert main(["dashboard", f"dashboard={spec}", "dashboard.x=step", "dashboard.output=a"]) == 2
    assert "set it there" in capsys.readouterr().err
    assert main(["dashboard", "dashboard=absent.yaml"]) == 2
    assert "no such file" in capsys.readouterr().err
