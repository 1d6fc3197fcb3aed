import json
import subprocess
import sys

import pytest
import wandb
import yaml

from tests.track import wandb_server
from trainer.errors import ConfigError, InputError
from trainer.track.sinks.journal import METRICS, SAMPLES, Journal, metric_row, sample_row
from trainer.track.wandb_service import WandbError
from trainer.verbs import sync


@pytest.fixture(autouse=True)
def own_wandb(monkeypatch, tmp_path):
    with wandb_server.own_wandb(monkeypatch, tmp_path):
        yield


@pytest.fixture
def server(monkeypatch):
    with wandb_server.reachable_server(monkeypatch) as server:
        yield server


@pytest.fixture
def run_dir(tmp_path):
    """A run that trained offline: 6 rows and 1 sample."""
    folder = tmp_path / "runs" / "a-run"
    folder.mkdir(parents=True)
    config = {"run": {"name": "a-run"}, "seed": 3, "track": {"wandb": {"mode": "offline", "project": "tests"}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "facts.json").write_text(json.dumps({"git_commit": "abc"}))
    add_rows(folder, range(10, 70, 10))
    samples = Journal(folder / SAMPLES)
    samples.write(sample_row(step=30, name="prompt", text="def f():"))
    samples.close()
    return folder


def add_rows(folder, steps):
    metrics = Journal(folder / METRICS)
    for step in steps:
        metrics.write(metric_row(step=step, tokens=step * 100, metrics={"train/loss": 5 - step / 50}))
    metrics.close()


def test_syncing_twice_and_after_more_rows_leaves_every_row_once(run_dir, server, capsys):
    assert sync.main([str(run_dir)]) == 0
    assert "W&B: 7 rows sent, 0 were there: http" in capsys.readouterr().out
    assert sync.main([str(run_dir)]) == 0
    assert "W&B: 0 rows sent, 7 were there: http" in capsys.readouterr().out
    add_rows(run_dir, [70, 80])
    assert sync.main([str(run_dir)]) == 0
    ((run_id, run),) = server.runs.items()
    assert run_id == (run_dir / "wandb_id").read_text().strip()
    assert (run.project, run.display_name) == ("tests", "a-run")
    assert run.config["seed"]["value"] == 3
    assert run.config["facts"]["value"] == {"git_commit": "abc"}
    assert run.steps() == [10, 20, 30, 40, 50, 60, 70, 80]
    assert run.steps("samples/prompt") == [30]


def test_wandb_sync_uploads_the_rebuilt_offline_folder_and_only_that(run_dir, server, capsys):
    for _ in range(2):
        assert sync.main([str(run_dir), "track.wandb.mode=offline"]) == 0
    out = capsys.readouterr().out
    newest = max((run_dir / "wandb").glob("offline-run-*"))
    assert f"7 rows written to {newest}; upload them with: wandb sync {newest}" in out
    assert "1 earlier offline folders hold parts of the same run; they are marked as synced." in out
    wandb.teardown()  # as at the end of the process: it waits for the files to be whole
    folders = [str(path) for path in (run_dir / "wandb").glob("offline-run-*")]
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *folders]
    subprocess.run(command, check=True, capture_output=True, timeout=30, cwd=run_dir)
    ((_, run),) = server.runs.items()
    assert run.steps() == [10, 20, 30, 40, 50, 60]
    assert run.steps("samples/prompt") == [30]


def test_a_server_that_is_gone_is_an_error_not_an_offline_folder(run_dir, server):
    server.silent = True
    with pytest.raises(WandbError, match="no answer within 1 s"):
        sync.main([str(run_dir), "track.wandb.init_timeout_s=1"])
    assert not list(run_dir.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("break_run", "message"),
    [
        (lambda folder: (folder / "config.yaml").unlink(), "not a run directory, it has no config.yaml"),
        (lambda folder: (folder / "config.yaml").write_text("a: [b"), "can't be read as YAML"),
        (lambda folder: (folder / "config.yaml").write_text("- 1"), "holds no configuration"),
        (lambda folder: [(folder / name).unlink() for name in (METRICS, SAMPLES)], r"no rows in metrics\.jsonl"),
        (lambda folder: (folder / METRICS).write_text("x\n"), r"metrics\.jsonl, line 1: not a JSON row"),
    ],
)
def test_a_run_directory_that_cant_be_synced_is_one_clear_line(run_dir, break_run, message):
    break_run(run_dir)
    with pytest.raises(InputError, match=message) as caught:
        sync.main([str(run_dir)])
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_run_directory_is_named(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        sync.main([str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "takes one run directory, 0 given"),
        (["a", "b"], "takes one run directory, 2 given"),
    ],
)
def test_sync_takes_one_run_directory(arguments, message):
    with pytest.raises(ConfigError, match=message):
        sync.main(arguments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=3", "train.steps: not a key of sync; choose one of track.wandb.entity"),
        ("track.wandb.proyect=x", r"track\.wandb\.proyect: not a key of sync"),
        ("track.wandb.mode=sideways", "track.wandb.mode=sideways: not known"),
        ("track.wandb.init_timeout_s=soon", "track.wandb.init_timeout_s: must be a number, not 'soon'"),
        ("track.wandb.mode=disabled", "nothing to do"),
        ("track.wandb.mode=online", "no key found"),
    ],
)
def test_bad_overrides_are_refused(run_dir, override, message):
    with pytest.raises(ConfigError, match=message):
        sync.main([str(run_dir), override])
