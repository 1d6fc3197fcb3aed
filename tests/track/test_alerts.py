"""track.alerts: each kind once, delivered to a real server and a real program, and never in the way of training."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.track.alert_server import alert_server, hanging_server
from tests.track.wandb_server import ENTITY, KEY, WandbServer
from trainer.config import Wandb
from trainer.config.alerts import KINDS, Alerts
from trainer.config.run import Track
from trainer.errors import STOPPED, ConfigError
from trainer.rules.alerts import check_alerts
from trainer.track.alerts import RECORD, Alerter
from trainer.track.sinks import alerts as sink
from trainer.track.spike_record import SpikeRecord, data_command


def recorded(run_dir):
    return [json.loads(line) for line in (run_dir / RECORD).read_text().splitlines()]


def test_one_of_a_kind_whoever_raises_it(tmp_path):
    with alert_server() as (address, came):
        settings = Alerts(webhook=address)
        raised = []

        def raise_it():
            alerter = Alerter(settings, tmp_path, print)
            raised.append(alerter.alert("crash", "rank 3 died"))
            alerter.finish()

        threads = [threading.Thread(target=raise_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other = Alerter(settings, tmp_path, print)
        assert other.alert("stop", "of another kind", step=7)
        other.finish()
    assert sorted(raised) == [False] * 7 + [True]
    assert [(each["kind"], each["step"]) for each in came] == [("crash", None), ("stop", 7)]
    assert came == recorded(tmp_path)
    assert came[0]["text"] == f"{tmp_path.name}: rank 3 died"


def test_a_kind_may_be_raised_again_after_its_time(tmp_path):
    alerter = Alerter(Alerts(command=["true"], every_minutes=10), tmp_path, print)
    assert alerter.alert("spike", "one")
    [line] = recorded(tmp_path)
    for age_s, again in ((599, False), (601, True)):
        (tmp_path / RECORD).write_text(json.dumps(line | {"time": line["time"] - age_s}) + "\nhalf a li")
        assert alerter.alert("spike", "two") == again


def test_who_looked_at_the_clock_first_but_came_second_raises_nothing(tmp_path, monkeypatch):
    """Under load a process can be overtaken between its look at the clock and the record; hosts' clocks differ, too."""
    now = time.time()
    alerters = [Alerter(Alerts(command=["true"]), tmp_path, print) for _ in range(3)]
    raised = []
    for alerter, moment in zip(alerters, (now, now - 0.5, now - 100), strict=True):
        monkeypatch.setattr("trainer.track.alerts.time.time", lambda moment=moment: moment)
        raised.append(alerter.alert("crash", "text"))
    assert raised == [True, False, False]


def test_a_record_that_somebody_holds_delays_nobody_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.track.alerts.LOCK_TIMEOUT_S", 0.2)
    said = []
    with (tmp_path / RECORD).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not Alerter(Alerts(command=["true"]), tmp_path, said.append).alert("crash", "text")
    assert "couldn't be recorded, and wasn't sent: another process has held" in said[0]


def test_every_kind_goes_every_way(tmp_path):
    ways = []
    code = f"import sys; open({str(tmp_path / 'got')!r}, 'a').write(sys.stdin.read() + '\\n')"
    with alert_server() as (address, came):
        alerter = Alerter(Alerts(webhook=address, command=[sys.executable, "-c", code]), tmp_path, print)
        alerter.add_way("W&B", lambda kind, text: ways.append((kind, text)))
        for step, kind in enumerate(KINDS):
            assert alerter.alert(kind, f"about {kind}", step=step)
            alerter.finish()
    got = [json.loads(line) for line in (tmp_path / "got").read_text().splitlines()]
    assert [each["kind"] for each in came] == list(KINDS)
    assert came == got == recorded(tmp_path)
    assert ways == [(each["kind"], each["text"]) for each in came]


@pytest.mark.parametrize("trouble", ["hangs", "answers 500"])
def test_a_webhook_in_trouble_holds_nothing_up(tmp_path, trouble):
    """Steps that raise alerts take as long as others; the end waits for a bounded time."""
    said = []
    server = hanging_server() if trouble == "hangs" else alert_server([500] * 100)
    with server as found:
        address = found if trouble == "hangs" else found[0]
        alerter = Alerter(Alerts(webhook=address, every_minutes=0), tmp_path, said.append)
        began = time.monotonic()
        for step in range(20):
            assert alerter.alert(KINDS[step % len(KINDS)], "text", step=step)
        assert time.monotonic() - began < 1
        alerter.finish(timeout_s=0.2)
        assert time.monotonic() - began < 2
    assert len(recorded(tmp_path)) == 20


def test_a_command_gets_it_as_json(tmp_path):
    code = f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read())"
    alerter = Alerter(Alerts(command=[sys.executable, "-c", code]), tmp_path, print)
    alerter.alert("disk", "naïve — 漢字", step=3)
    alerter.finish()
    assert json.loads((tmp_path / "got").read_text())["text"].endswith("naïve — 漢字")


def test_a_server_in_trouble_is_asked_again_and_a_refusal_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.track.alerts.time.sleep", lambda _: None)
    said = []
    with alert_server([500, 503]) as (address, came):
        for statuses_of in ("crash", "stop"):
            alerter = Alerter(Alerts(webhook=address), tmp_path, said.append)
            alerter.alert(statuses_of, "text")
            alerter.finish()
        assert [each["kind"] for each in came] == ["crash", "crash", "crash", "stop"]
    assert said == []
    for status in (404, 302):  # it isn't followed elsewhere
        with alert_server([status]) as (address, came):
            alerter = Alerter(Alerts(webhook=address, every_minutes=0), tmp_path, said.append)
            alerter.alert("crash", "text")
            alerter.finish()
            assert len(came) == 1
        assert f"{status}" in said.pop()
    Alerter(Alerts(command=["false"], every_minutes=0), tmp_path, said.append).alert("stop", "text")
    alerter = Alerter(Alerts(command=["false"], every_minutes=0), tmp_path, said.append)
    alerter.alert("stop", "text")
    alerter.finish()
    assert "couldn't be sent by command: exit code 1" in said[-1]


def test_no_secret_is_sent_and_no_unwanted_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sesame-sesame")
    monkeypatch.setenv("HOOK", "nowhere")
    with alert_server() as (address, came):
        monkeypatch.setenv("HOOK", address)
        alerter = Alerter(Alerts(webhook="env:HOOK", on=["crash"]), tmp_path, print)
        assert not alerter.alert("finished", "text")
        alerter.alert("crash", "it said sesame-sesame")
        alerter.finish()
    assert [each["text"] for each in came] == [f"{tmp_path.name}: it said ${{SOME_API_KEY}}"]


def opened(tmp_path, **given):
    config = SimpleNamespace(track=SimpleNamespace(alerts=Alerts(command=["true"], **given)))
    return sink.open_sink(SimpleNamespace(run_dir=tmp_path, config=config, total_steps=9), print)


@pytest.mark.parametrize(("code", "kinds"), [(0, ["finished"]), (STOPPED, ["stop"]), (1, [])])
def test_the_end_of_a_run(tmp_path, code, kinds):
    """An error is told by who started the ranks and knows which came first."""
    opened(tmp_path).close(exit_code=code, summary={})
    assert [each["kind"] for each in recorded(tmp_path)] == kinds if kinds else not (tmp_path / RECORD).exists()


def test_spikes_and_a_disk_that_fills_up(tmp_path):
    found = opened(tmp_path, disk_free=1.0)
    found.row({"step": 4, "train/loss": 2.0})
    found.row({"step": 5, "train/loss": 12.0})
    found.spike(SpikeRecord(5, 100, 0.0, data_command(tmp_path, 5), {"train/loss": 12.0}))
    disk, spike = recorded(tmp_path)
    assert (disk["kind"], spike["kind"], spike["step"]) == ("disk", "spike", 5)
    assert f"banyan data at {tmp_path} step=5" in spike["text"]
    assert "nearly full" in disk["text"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Alerts(wandb=True), "track.wandb.mode=offline: W&B tells people of runs that are online"),
        (Alerts(webhook="ftp://host/x"), "no http:// or https:// address"),
        (Alerts(webhook="env:NOT_THERE_AT_ALL"), "the environment has no NOT_THERE_AT_ALL"),
        (Alerts(webhook="https://u:pw@host/x"), "credentials"),
        (Alerts(command=["no-such-program"]), "there is no such program"),
        (Alerts(on=["crahs"]), "crahs is no kind of alert; choose of finished, stop"),
    ],
)
def test_what_would_reach_nobody_is_refused(settings, said):
    with pytest.raises(ConfigError, match=r"track\.alerts") as refused:
        check_alerts(Track(alerts=settings, wandb=Wandb(mode="offline")))
    assert said in str(refused.value)


def test_a_run_tells_its_end_and_its_launcher_that_rank_0_was_killed(corpus, tmp_path):
    keys = [
        f"data.path={corpus}", "model=tiny", "model.hidden_size=16", "model.intermediate_size=32",
        "model.head_dim=null", "model.num_hidden_layers=1", "train.batch_size=2",
        "train.micro_batch_size=1", "data.sequence_length=16",
        "evaluate.every=0", "launch.processes=2", "launch.threads=1", "track.every=1",
    ]  # fmt: skip
    with alert_server() as (address, came), WandbServer() as server:
        command = [sys.executable, "-m", "launch", "pretrain", *keys, f"track.alerts.webhook={address}"]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online", "HOME": str(tmp_path)}
        whole = subprocess.run(
            [*command, f"run.dir={tmp_path / 'a'}", "train.steps=2"], env=environment, capture_output=True, text=True
        )
        assert whole.returncode == 0, whole.stderr
        assert [each["kind"] for each in came] == ["finished"]
        killed = subprocess.Popen(
            [*command, f"run.dir={tmp_path / 'b'}", "train.steps=100000", "track.alerts.wandb=true"],
            env=environment | online, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        next(line for line in killed.stdout if line.startswith("step "))
        children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text()
        os.kill(int(children.split()[0]), 9)
        killed.communicate(timeout=120)
    assert [each["kind"] for each in came] == ["finished", "crash"]
    assert "rank 0 was killed by SIGKILL" in came[1]["text"]
    [by_wandb] = server.alerts
    assert by_wandb["text"] == came[1]["text"]
    assert by_wandb["runName"] == (tmp_path / "b" / "wandb_id").read_text().strip()
    assert (by_wandb["title"], by_wandb["severity"], by_wandb["entityName"]) == ("crash", "ERROR", ENTITY)
    assert len(KINDS) == 6
