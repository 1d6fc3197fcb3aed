"""Another model takes the place of one that answers: nothing of a load that goes on is lost; and how a server ends."""

import asyncio
import json
import os
import shutil
import signal
import stat
import threading
import time

import openai
import pytest

from tests.serve.conftest import Served, run_verb, serving
from trainer.config.serve import ServeSettings
from trainer.errors import ConfigError
from trainer.machine.json_file import read_json
from trainer.serve.control import controlled, tell_server
from trainer.serve.listener import listen

CHAT = [{"role": "user", "content": "the tree grows many"}]


class Load:
    """Clients that ask until they are told to stop; every answer and every failure is kept."""

    def __init__(self, server, clients=3):
        self._stop = threading.Event()
        self.answers, self.failures = [], []
        self._threads = [threading.Thread(target=self._ask, args=(server, number)) for number in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, server, number):
        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0, timeout=60)
        given = {"model": "tree", "messages": CHAT, "max_tokens": 12, "temperature": 0}
        while not self._stop.is_set():
            try:
                if number % 2:
                    chunks = list(client.chat.completions.create(**given, stream=True))
                    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
                else:
                    text = client.chat.completions.create(**given).choices[0].message.content
                self.answers.append(text)
            except Exception as error:
                self.failures.append(repr(error))


def serving_model(server):
    [model] = server.ask("/v1/models")[2]["data"]
    return model["root"], model["step"]


def test_no_request_is_lost_while_models_change(trained, monkeypatch):
    with serving(trained, "run.dir=runs/a", "serve.engine=torch", "serve.name=tree") as server:
        [socket] = (trained / "run").rglob("*.sock")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        with Load(server) as load:
            seen = [serving_model(server)]
            back = ("rollback",)
            for command in (
                ("reload", "run.dir=runs/b"),
                ("reload", "run.dir=runs/b", "checkpoint.step=2"),
                back,
                back,
            ):
                count = len(load.answers)
                run_verb(trained, "serve", *command, f"serve.port={server.port}")
                seen.append(serving_model(server))
                while len(load.answers) < count + 6 and not load.failures:
                    time.sleep(0.02)
        assert load.failures == []
        assert seen == [("a", 4), ("b", 4), ("b", 2), ("b", 4), ("a", 4)]
        assert len(set(load.answers)) > 1  # the models say different things
        assert server.metric("banyan:model_swaps_total") == 4

        broken = trained / "broken"
        shutil.copytree(trained / "runs" / "a" / "serve" / "step-00000004", broken)
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        for wrong, said in ((f"path={broken}", "broken"), ("path=/no/such/folder", "no such folder")):
            with pytest.raises(AssertionError, match=said):
                run_verb(trained, "serve", "reload", wrong, f"serve.port={server.port}")
        claims = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps(claims | {"hidden_size": 10**9}))
        shutil.copy(trained / "runs" / "a" / "serve" / "step-00000004" / "model.safetensors", weights)
        with pytest.raises(AssertionError, match=r"config\.json: hidden_size=1000000000, but no weight beside it"):
            run_verb(trained, "serve", "reload", f"path={broken}", f"serve.port={server.port}")
        (broken / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        weights.unlink()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(trained / "run"))
        with pytest.raises(ConfigError, match="weights are read from safetensors only"):
            tell_server(server.port, {"do": "reload", "path": str(broken)})
        assert serving_model(server) == ("a", 4)
        assert server.ask("/v1/chat/completions", {"messages": CHAT, "max_tokens": 2})[0] == 200
        with pytest.raises(ConfigError, match=f"serve.port={server.port}: can't listen .*Address already in use"):
            listen(ServeSettings(port=server.port))
        with pytest.raises(ConfigError, match=f"serve.port={server.port}: another server of yours"):  # elsewhere
            asyncio.run(enter(controlled(None, server.port)))
        server.process.kill()
        server.process.wait()
    # killed outright, its socket file is left: the same command again serves, and can be told to change
    with serving(trained, "run.dir=runs/a", "serve.engine=torch", port=server.port):
        with pytest.raises(ConfigError, match="there is no model to go back to"):
            tell_server(server.port, {"do": "rollback"})


async def enter(context):
    async with context:
        pass


def test_it_follows_a_run_and_drains_before_it_ends(trained):
    shutil.copytree(trained / "runs" / "a", trained / "runs" / "growing")
    newer = trained / "runs" / "growing" / "checkpoints" / "step-00000004"
    later = newer.rename(trained / "later")
    keys = ("run.dir=runs/growing", "serve.engine=torch", "serve.follow=true", "serve.follow_s=0.2")
    with serving(trained, *keys) as server:
        assert serving_model(server) == ("growing", 2)
        later.rename(newer)
        deadline = time.monotonic() + 60
        while serving_model(server) != ("growing", 4):
            assert time.monotonic() < deadline, server.log
            time.sleep(0.1)

        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)
        given = {"model": "growing", "prompt": "the tree", "max_tokens": 100, "temperature": 1.5, "seed": 5}
        expected = client.completions.create(**given).choices[0].text
        stream = client.completions.create(**given, stream=True)
        text = next(iter(stream)).choices[0].text
        server.process.send_signal(signal.SIGTERM)
        text += "".join(chunk.choices[0].text for chunk in stream)
        assert text == expected  # whole, although it was told to end meanwhile
        assert server.process.wait(60) == 0
        assert "draining" in server.log
        assert not list((trained / "run").rglob(f"{server.port}.sock"))


def test_a_second_signal_ends_it_at_once(trained):
    with serving(trained, "run.dir=runs/a", "serve.engine=torch", "serve.drain_s=60") as server:
        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)
        chunks = client.completions.create(
            model="a", prompt="the tree", max_tokens=100, temperature=1.5, seed=5, n=16, stream=True
        )
        next(iter(chunks))
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)  # together with it: one request, of which two know
        time.sleep(1.2)
        if server.process.poll() is None:
            assert "told again" not in server.log
            server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(20)
        assert code in (0, 143), server.log


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["run.dir=runs/none"], "runs/none"),
        (["path=chats"], "no config.json there"),
        (["run.dir=runs/a", "path=chats"], "run.dir and path: give one of them"),
        (["run.dir=runs/a", "serve.host=0.0.0.0"], "give serve.keys=FILE"),
        (["run.dir=runs/a", "serve.engine=vllm"], "needs the package vllm"),
        (["run.dir=runs/a", "serve.engine=llama_cpp", "serve.precision=bf16"], "it has f32, f16, q8_0, q4_0"),
        (["run.dir=runs/a", "serve.engine=llama_cpp", "serve.watermark=true"], "use serve.engine=torch"),
        (["run.dir=runs/a", "serve.keys=chats.jsonl"], "serve.keys=chats.jsonl"),
        (["run.dir=runs/a", "serve.tls_cert=chats.jsonl"], "give both, or neither"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(trained, keys, said):
    server = Served(trained, *keys)
    assert server.process.wait(120) == 2
    assert said in server.log
    assert "Traceback" not in server.log


@pytest.mark.full
def test_tls_and_the_newest_run(trained):
    import ssl
    import subprocess
    import urllib.request

    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem -addext"
    made = [*made.split(), "subjectAltName=IP:127.0.0.1"]
    subprocess.run(made, cwd=trained, check=True, capture_output=True)
    os.utime(trained / "runs" / "b" / "checkpoints" / "step-00000004" / "COMPLETE")
    with serving(trained, "serve.tls_cert=cert.pem", "serve.tls_key=key.pem", scheme="https") as server:
        context = ssl.create_default_context(cafile=str(trained / "cert.pem"))
        with urllib.request.urlopen(f"{server.base}/health", context=context) as answer:
            assert answer.read().startswith(b'{"status":"ok"')
        assert server.log.startswith("b, step 4:")
    assert read_json(trained / "runs" / "b" / "serve" / "step-00000004" / "config.json")
