import base64
import json
import math
import socket
import subprocess
import sys
import time

import psutil
import pytest
import wandb

from launch.alerts import tell
from launch.failure import Failure
from tests.track import wandb_server
from tests.track.wandb_server import KEY
from trainer.config import Pretrain, Wandb
from trainer.config.alerts import Alerts
from trainer.config.run import Track
from trainer.errors import ConfigError, HangError
from trainer.track.sinks.journal import METRICS, read_rows
from trainer.track.sinks.sink import Start
from trainer.track.sinks.wandb_run import Unsent, WandbSettings, start_or_fall_back, start_run
from trainer.track.tracker import Tracker
from trainer.track.wandb_service import WandbError, choose_mode

RESOLVED = {"seed": 7, "model": {"hidden_size": 256}, "optimizer": {"lr": 3e-4}}
FACTS = {"git_commit": "abc123", "world_size": 2, "datasets": {"train": "fingerprint-1"}}


@pytest.fixture(autouse=True)
def own_wandb(monkeypatch, tmp_path):
    with wandb_server.own_wandb(monkeypatch, tmp_path):
        yield


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def server(monkeypatch):
    with wandb_server.reachable_server(monkeypatch) as server:
        yield server


def open_tracker(run_dir, *, mode="auto", start_step=0, timeout_s=10.0):
    config = Pretrain()
    config.run.name = "a-run"
    config.track.wandb = Wandb(mode=mode, init_timeout_s=timeout_s, tags=["t"])
    return Tracker.open(Start(run_dir, config, RESOLVED, FACTS, start_step=start_step, total_steps=100))


def log_steps(tracker, first, last):
    """Training every 10 steps, evaluation every 20, a sample after each evaluation."""
    for step in range(first, last + 1, 10):
        tracker.log(step=step, tokens=step * 100, metrics={"train/loss": 5 - step / 50, "train/lr": 1e-3})
        if step % 20 == 0:
            tracker.log(step=step, tokens=step * 100, metrics={"eval/validation/loss": 4 - step / 50})
            tracker.text(step=step, name="prompt", text="def <main>")


def offline_folders(run_dir):
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def records(folder):
    """What `wandb leet` reads from an offline folder."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder.parent).stdout.splitlines()
    return [json.loads(line) for line in lines]


def files_with_key(run_dir):
    secrets = [KEY.encode(), base64.b64encode(f"api:{KEY}".encode())]
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if any(secret in path.read_bytes() for secret in secrets)]


def test_an_offline_run_read_back_has_configuration_facts_every_row_and_the_axes(run_dir, capfd):
    tracker = open_tracker(run_dir)
    log_steps(tracker, 10, 40)
    tracker.log(step=50, tokens=5000, metrics={"train/loss": math.nan})
    tracker.close(exit_code=0, summary={"final": 1.5})
    (folder,) = offline_folders(run_dir)
    wandb.teardown()
    found = records(folder)
    run = next(record["run"] for record in found if record["type"] == "run")
    assert run["run_id"] == (run_dir / "wandb_id").read_text().strip()
    assert (run["display_name"], run["project"]) == ("a-run", "banyan")
    assert RESOLVED.items() <= run["config"]["update"].items()
    assert run["config"]["update"]["facts"] == FACTS
    history = [record["history"]["item"] for record in found if record["type"] == "history"]
    assert [row["step"] for row in history if "train/loss" in row] == [10, 20, 30, 40, 50]
    assert [
        (row["step"], row["tokens"], row["eval/validation/loss"]) for row in history if "eval/validation/loss" in row
    ] == [
        (20, 2000, 3.6),
        (40, 4000, 3.2),
    ]
    assert [row["step"] for row in history if any(key.startswith("samples/prompt") for key in row)] == [20, 40]
    metrics = [record["metric"] for record in found if record["type"] == "metric"]
    assert {"step", "tokens"} <= {metric.get("name") for metric in metrics}
    assert any(metric.get("glob_name") == "*" and metric["step_metric"] == "step" for metric in metrics)
    captured = capfd.readouterr()
    assert captured.out.splitlines()[0] == (
        "W&B: no key found, so the run is recorded offline; `banyan sync` uploads it once there is one."
    )
    assert "wandb:" not in captured.out + captured.err


def test_an_online_run_goes_on_under_its_id_with_every_row_once_although_a_kill_repeats_and_takes_rows(
    run_dir, server, capfd
):
    tracker = open_tracker(run_dir)
    log_steps(tracker, 10, 40)
    tracker.close(exit_code=85, summary={})
    ((run_id, run),) = server.runs.items()
    assert run_id == (run_dir / "wandb_id").read_text().strip()
    assert run.config["facts"]["value"] == FACTS
    assert run.exit_codes == [0]  # 85 isn't a failure
    assert any(name.startswith("media/html/samples/prompt") for name in run.files)
    # The server has rows beyond the checkpoint at step 20: they are replayed, but not sent again.
    tracker = open_tracker(run_dir, start_step=20)
    log_steps(tracker, 30, 60)
    tracker.close(exit_code=0, summary={})
    # The server lacks rows before the checkpoint at step 60, of which the last is in mid-step: they are made up for.
    del run.history[-5:]
    assert run.history[-1]["step"] == 40
    tracker = open_tracker(run_dir, start_step=60)
    log_steps(tracker, 70, 80)
    tracker.close(exit_code=0, summary={"final": 2.5})
    assert list(server.runs) == [run_id]
    assert run.steps("train/loss") == [10, 20, 30, 40, 50, 60, 70, 80]
    assert run.steps("eval/validation/loss") == run.steps("samples/prompt") == [20, 40, 60, 80]
    assert run.summary["final"] == 2.5
    assert [row["step"] for row in read_rows(run_dir / METRICS)] == [10, 20, 20, 30, 40, 40, 50, 60, 60, 70, 80, 80]
    assert server.authorizations == {"Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()}
    assert files_with_key(run_dir) == []
    captured = capfd.readouterr()
    assert "W&B" not in captured.out
    assert KEY not in captured.out + captured.err


def dead_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def timed_open(run_dir, timeout_s):
    began_s = time.monotonic()
    tracker = open_tracker(run_dir, timeout_s=timeout_s)
    return tracker, time.monotonic() - began_s


def check_went_offline(run_dir, tracker, out):
    log_steps(tracker, 10, 20)
    tracker.close(exit_code=0, summary={})
    assert "Going on offline; `banyan sync" in out.splitlines()[0]
    (folder,) = offline_folders(run_dir)
    wandb.teardown()  # as at the end of the process: it waits for the file to be whole
    (file,) = folder.glob("*.wandb")
    assert all(key in file.read_bytes() for key in (b"train/loss", b"eval/validation/loss", b"samples/prompt"))
    assert files_with_key(run_dir) == []


OFFLINE_START_S = 12.0  # imports, W&B's service and an offline start on a busy machine; left to itself W&B takes 100 s


def test_a_dead_port_doesnt_hold_up_training(run_dir, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{dead_port()}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracker, seconds = timed_open(run_dir, timeout_s=1)
    assert seconds < 1 + OFFLINE_START_S
    check_went_offline(run_dir, tracker, capfd.readouterr().out)


def test_a_server_that_never_answers_doesnt_hold_up_training_or_its_end(run_dir, server, capfd):
    server.silent = True
    tracker, seconds = timed_open(run_dir, timeout_s=1)
    assert seconds < 1 + OFFLINE_START_S
    out = capfd.readouterr().out
    assert out.startswith("W&B online: no answer within 1 s.")
    check_went_offline(run_dir, tracker, out)


def test_a_server_that_stalls_while_the_run_starts_doesnt_hold_up_training(run_dir, server, capfd):
    server.silent_upserts = True
    tracker, seconds = timed_open(run_dir, timeout_s=2)
    assert seconds < 2 + OFFLINE_START_S
    check_went_offline(run_dir, tracker, capfd.readouterr().out)


def test_a_network_that_dies_in_mid_run_holds_up_the_end_only_by_the_finish_timeout(run_dir, server):
    said = []
    settings = Wandb(init_timeout_s=10)
    plan = WandbSettings(run_dir, name="a-run", settings=settings, config={}, finish_timeout_s=1)
    run = start_run(plan, "online", say=said.append)
    server.silent = True
    for step in range(1, 50):
        run.log({"step": step, "tokens": step, "train/loss": 1.0})
    began_s = time.monotonic()
    assert run.close(exit_code=0, summary={}) is False
    assert time.monotonic() - began_s < 12
    assert len(said) == 1
    assert "not all rows were uploaded within 1 s" in said[0]
    assert f"`banyan sync {run_dir}` uploads it later" in said[0]


def test_a_wandb_service_killed_in_mid_run_is_one_line_and_its_rows_come_at_the_next_start(run_dir, server, capfd):
    tracker = open_tracker(run_dir)
    for child in psutil.Process().children(recursive=True):
        if child.name().startswith("wandb-core"):
            child.kill()
            child.wait(10)
    log_steps(tracker, 10, 40)
    tracker.close(exit_code=85, summary={})
    assert capfd.readouterr().out.count("W&B: ") == 1
    tracker = open_tracker(run_dir, start_step=40)
    log_steps(tracker, 50, 60)
    tracker.close(exit_code=0, summary={})
    ((_, run),) = server.runs.items()
    assert run.steps() == [10, 20, 30, 40, 50, 60]


def test_a_wandb_service_that_hangs_doesnt_hold_up_the_end(run_dir, server, monkeypatch):
    for user in ("sinks.wandb_run", "wandb_service"):
        monkeypatch.setattr(f"trainer.track.{user}.STOP_TIMEOUT_S", 0.5)
    said = []
    plan = WandbSettings(run_dir, name="a-run", settings=Wandb(), config={}, finish_timeout_s=0.5)
    run = start_run(plan, "online", say=said.append)
    for child in psutil.Process().children(recursive=True):
        if child.name().startswith("wandb-core"):
            child.suspend()
    run.log({"step": 1, "tokens": 1, "train/loss": 1.0})
    began_s = time.monotonic()
    assert run.close(exit_code=0, summary={}) is False
    assert time.monotonic() - began_s < 12
    assert len(said) == 1


def test_a_broken_setting_of_wandbs_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "no url")
    with pytest.raises(ConfigError, match=r"W&B's own settings: .*Check the WANDB_\* variables\.$"):
        choose_mode(Wandb())


def test_an_error_of_wandbs_in_mid_run_is_one_line_and_no_crash(run_dir):
    said = []
    plan = WandbSettings(run_dir, name="a-run", settings=Wandb(mode="offline"), config={})
    run = start_or_fall_back(plan, say=said.append)
    run._run.log = lambda row: 1 / 0
    for step in (1, 2):
        run.log({"step": step, "tokens": step, "train/loss": 1.0})
    run.close(exit_code=0, summary={})
    assert len(said) == 1
    assert "division by zero" in said[0]


def test_a_wandb_that_cant_start_at_all_is_an_error_that_training_survives(run_dir, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: 1 / 0)
    said = []
    plan = WandbSettings(run_dir, name="a-run", settings=Wandb(mode="offline"), config={})
    with pytest.raises(WandbError, match="division by zero"):
        start_run(plan, "offline", say=said.append)
    assert start_or_fall_back(plan, say=said.append) is None
    assert "Going on without W&B" in said[0]


def test_disabled_leaves_no_trace_of_wandb(run_dir):
    tracker = open_tracker(run_dir, mode="disabled")
    log_steps(tracker, 10, 10)
    tracker.close(exit_code=0, summary={})
    assert {path.name for path in run_dir.iterdir()} == {"facts.json", "metrics.jsonl", "samples.jsonl", "starts.jsonl"}


@pytest.mark.parametrize(
    ("mode", "environment", "chosen"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline"),
        ("auto", {"WANDB_API_KEY": "too-short"}, "offline"),
    ],
)
def test_the_mode_follows_key_and_environment(monkeypatch, mode, environment, chosen):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert choose_mode(Wandb(mode=mode)) == chosen


def test_a_key_in_netrc_counts(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert choose_mode(Wandb()) == "online"


@pytest.mark.parametrize(
    ("mode", "environment", "message"),
    [
        ("online", {}, "track.wandb.mode=online: no key found. Set WANDB_API_KEY"),
        ("online", {"WANDB_API_KEY": "too-short"}, "WANDB_API_KEY invalid"),
        ("auto", {"WANDB_MODE": "online"}, "WANDB_MODE=online: no key found"),
        ("auto", {"WANDB_MODE": "sideways"}, "WANDB_MODE=sideways: not known"),
    ],
)
def test_a_mode_that_cant_be_honoured_is_refused(monkeypatch, mode, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        choose_mode(Wandb(mode=mode))


def row(step, **metrics):
    return {"step": step, "tokens": step, "time": 1.0, **metrics}


@pytest.mark.parametrize(
    ("last", "unsent"),
    [
        (None, [10, 20, "eval", "text", 30]),
        ({"step": 10, "tokens": 10, "_step": 0, "loss": 1}, [20, "eval", "text", 30]),
        ({"step": 20, "tokens": 20, "_step": 9, "loss": 1}, ["eval", "text", 30]),
        ({"step": 20, "tokens": 20, "_step": 9, "eval": 1}, ["text", 30]),
        ({"step": 20, "_step": 9, "samples/s": {}}, [30]),
        ({"step": 30, "tokens": 30, "_step": 9, "loss": 1}, []),
    ],
)
def test_only_rows_after_the_servers_last_are_sent(last, unsent):
    rows = {
        10: row(10, loss=1),
        20: row(20, loss=1),
        "eval": row(20, eval=1),
        "text": {"step": 20, "name": "s", "text": "x"},
        30: row(30, loss=1),
    }
    after = Unsent(last)
    assert [name for name, each in rows.items() if after.includes(each)] == unsent


def test_alerts_reach_the_server(run_dir, server):
    config = Pretrain()
    config.run.name = "a-run"
    config.track.wandb = Wandb(mode="online")
    config.track.alerts.wandb = True
    tracker = Tracker.open(Start(run_dir, config, RESOLVED, FACTS, start_step=0, total_steps=100))
    tracker.log(step=10, tokens=1000, metrics={"train/loss": 9.0}, limits={"train/loss": 4.0})
    tracker.close(exit_code=0, summary={})
    found = [(each["title"], each["severity"]) for each in server.alerts]
    assert found == [("spike", "WARN"), ("finished", "INFO")]
    assert f"banyan data at {run_dir} step=10" in server.alerts[0]["text"]


def stall(run_dir, *, entity=None):
    """What whoever started the ranks of a run tells of its hang, with W&B alone to tell it by."""
    track = Track(alerts=Alerts(wandb=True, every_minutes=0), wandb=Wandb(mode="online", entity=entity))
    failed = Failure(time.time(), 0, 1, "no progress for 600 s", kind=HangError.__name__)
    tell(failed, track, run_dir)


def test_a_stall_is_told_to_the_server_by_who_stays(run_dir, server, capsys):
    stall(run_dir)
    assert "couldn't be sent by W&B: the run has no W&B run yet" in capsys.readouterr().out
    (run_dir / "wandb_id").write_text("a1b2c3\n")
    stall(run_dir)
    stall(run_dir, entity="a-team")
    assert [each["entityName"] for each in server.alerts] == [wandb_server.ENTITY, "a-team"]
    told = server.alerts[0]
    assert (told["runName"], told["title"], told["severity"]) == ("a1b2c3", "stall", "ERROR")
    assert told["text"] == f"{run_dir.name}: no progress for 600 s"


def test_a_server_that_is_silent_holds_up_nobody_who_tells_it(run_dir, server, capsys, monkeypatch):
    monkeypatch.setattr("trainer.track.sinks.wandb_alert.LONGEST_WAIT_S", 1.0)
    (run_dir / "wandb_id").write_text("a1b2c3\n")
    server.silent = True
    began = time.monotonic()
    stall(run_dir)
    assert time.monotonic() - began < 6
    assert "couldn't be sent by W&B: no answer within 1 s" in capsys.readouterr().out


def test_that_no_alert_goes_by_wandb_offline_is_said_as_the_run_begins(run_dir, capsys):
    config = Pretrain()
    config.track.wandb = Wandb(mode="offline")
    config.track.alerts.wandb = True
    Tracker.open(Start(run_dir, config, RESOLVED, FACTS, start_step=0, total_steps=1)).close(exit_code=0, summary={})
    said = "W&B isn't online, and sends no alert: nobody is told of anything; set track.alerts.webhook"
    assert said in capsys.readouterr().out
