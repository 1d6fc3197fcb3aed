"""A small run, and servers of it as processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.corpus import write_texts
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.machine.host import free_port

ROOT = Path(__file__).parents[2]
START_S = 180.0


class Served:
    """A server: `base` is its address, `log` what it printed so far."""

    def __init__(self, folder, *keys, port=None, scheme="http"):
        self.port = port or free_port()
        self.base = f"{scheme}://127.0.0.1:{self.port}"
        self._log = folder / f"serve-{self.port}.log"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        environment |= {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(folder / "run")}
        (folder / "run").mkdir(exist_ok=True)
        command = [sys.executable, "-P", "-m", "launch", "serve", *keys, f"serve.port={self.port}", "serve.threads=1"]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)

    @property
    def log(self):
        return self._log.read_text(errors="replace")

    def wait(self):
        """Until it answers."""
        deadline = time.monotonic() + START_S
        while "serving " not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)
        return self

    def ask(self, path, content=None, *, headers=None, raw=None, method=None):
        """(status, headers, the answer: JSON where it is some, else bytes)."""
        body = raw if raw is not None else None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.base + path, body, headers or {}, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            found = answer.read()
        with contextlib.suppress(ValueError):
            found = json.loads(found)
        return answer.status, answer.headers, found

    def metric(self, name):
        """The sum of a metric over its labels."""
        lines = self.ask("/metrics")[2].decode().splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " "))]
        assert values, name
        return sum(values)

    def until(self, name, value, seconds=20):
        """Waits until a metric has a value."""
        deadline = time.monotonic() + seconds
        while (found := self.metric(name)) != value:
            assert time.monotonic() < deadline, (name, found)
            time.sleep(0.05)

    def stop(self, number=signal.SIGTERM):
        """Ends it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(folder, *keys, **given):
    server = Served(folder, *keys, **given)
    try:
        yield server.wait()
    finally:
        server.process.kill()
        server.process.wait()


def run_verb(folder, *arguments):
    """A verb of the command line, in a folder."""
    command = [sys.executable, "-P", "-m", "launch", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(folder / "run")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(folder, name, **more):
    """A run of chats in runs/NAME, with checkpoints at steps 2 and 4."""
    config = small_config(folder / "chats", folder / "runs" / name, train__steps=4, checkpoint__every=2, **more)
    config.data.packing, config.data.sequence_length, config.checkpoint.keep = "whole", 128, 9
    assert run_ranks(pretrain, config, 1) == [0]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with chats and two runs of them, runs/a and runs/b, of other weights."""
    folder = tmp_path_factory.mktemp("served")
    texts = write_texts(80)
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    chats = [
        {"messages": [{"role": "user", "content": text[:40]}, {"role": "assistant", "content": text[40:80]}]}
        for text in texts
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    small = ("data.validation_fraction=0", "data.workers=1")
    run_verb(
        folder, "prepare", "data.input=text.jsonl", "data.output=text", "data.tokenizer.train.vocab_size=300", *small
    )
    run_verb(
        folder, "prepare", "data.input=chats.jsonl", "data.output=chats", "data.format=chat",
        "data.tokenizer.path=text", *small,
    )  # fmt: skip
    train(folder, "a")
    train(folder, "b", seed=7)
    return folder


@pytest.fixture(scope="session")
def server(trained):
    """One that answers most tests."""
    with serving(trained, "run.dir=runs/a", "serve.engine=torch", "serve.name=tree") as found:
        yield found
