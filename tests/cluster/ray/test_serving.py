"""`banyan serve launch=ray` on a real cluster: replicas behind one route, a killed one comes back, nothing stays."""

import os
import signal
import threading
import urllib.request

import psutil
import pytest

from tests.cluster.ray.daemons import wait_until
from tests.hf_folder import make_folder
from trainer.machine.host import free_port

SCALING = ("serve.slots=1", "serve.scale_up_s=1", "serve.scale_down_s=2")
COUNT = 'vllm:request_success_total{finished_reason="length"'
LONG_S = 900.0  # for what comes by itself, however busy the machine: only a failure waits for so long


def replicas():
    """The processes of the replicas."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name().startswith("ray::ServeRepl") or "ray::ServeReplica" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return {process.pid for process in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("replicated")
    make_folder(path / "model", max_position_embeddings=512)
    return path


def start(daemons, folder, port, *more):
    keys = [f"serve.port={port}", "serve.engine=torch", "serve.threads=1", "path=model", "launch=ray"]
    return daemons.banyan("serve", *keys, *more, log=folder / f"driver-{port}.log")


def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG_S) as answer:
        return answer.read().decode()


@pytest.mark.full
def test_two_replicas_answer_by_one_route_and_a_killed_one_comes_back(daemons, folder):
    from openai import OpenAI

    port, before = free_port(), replicas()
    driver = start(daemons, folder, port, "launch.workers=2")
    driver.wait_until(lambda: "serving at" in driver.output(), LONG_S)
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=8, timeout=LONG_S)

    def ask(**more):
        return client.completions.create(model="model", prompt="the tree", max_tokens=4, temperature=0, **more)

    texts = {ask().choices[0].text for _ in range(30)}
    assert len(texts) == 1
    streamed = "".join(event.choices[0].text for event in ask(stream=True) if event.choices)
    assert {streamed} == texts
    # each has answered some: a scrape shows one of them, and it has fewer than all
    wait_until(lambda: len(replicas() - before) == 2, LONG_S)
    counts = [float(line.rsplit(" ", 1)[1]) for line in metrics(port).splitlines() if line.startswith(COUNT)]
    assert 0 < sum(counts) < 31
    victim = min(replicas() - before)
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):  # the other one goes on; what was lost with the process, the client asks again
        assert {ask().choices[0].text} == texts
    wait_until(lambda: len(replicas() - before) == 2 and victim not in replicas(), LONG_S, driver.output)
    assert {ask().choices[0].text for _ in range(10)} == texts
    driver.process.send_signal(signal.SIGTERM)
    assert driver.wait(LONG_S) == 0, driver.output()
    wait_until(lambda: not replicas() - before, LONG_S)


@pytest.mark.full
def test_a_stream_that_is_left_frees_its_slot_through_the_route(daemons, folder):
    from openai import OpenAI

    port = free_port()
    driver = start(daemons, folder, port, "launch.workers=1")
    driver.wait_until(lambda: "serving at" in driver.output(), LONG_S)
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    stream = client.completions.create(model="model", prompt="the tree", max_tokens=450, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: 'finished_reason="abort"' in metrics(port) or COUNT in metrics(port), LONG_S)
    assert 'finished_reason="abort"' in metrics(port)
    driver.process.send_signal(signal.SIGTERM)
    assert driver.wait(LONG_S) == 0, driver.output()


@pytest.mark.full
def test_replicas_come_with_the_load_and_go_without_it(daemons, folder):
    """None of what is asked meanwhile is lost. Another command is refused; one that was killed is taken over from."""
    from openai import OpenAI

    port, before = free_port(), replicas()
    driver = start(daemons, folder, port, "launch.workers=[1,3]", *SCALING)
    driver.wait_until(lambda: "serving at" in driver.output(), LONG_S)
    assert "replicas: 1 to 3" in driver.output()
    assert len(replicas() - before) == 1
    other = start(daemons, folder, free_port(), "launch.workers=1")
    assert other.wait(LONG_S) == 2
    assert "another `banyan serve` answers on this cluster" in other.output()

    crowd_ends, last_ends, failures, count = threading.Event(), threading.Event(), [], []

    def ask(stop):
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=LONG_S)
        while not stop.is_set():
            try:
                client.completions.create(model="model", prompt="the tree", max_tokens=200)
                count.append(1)
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=ask, args=(crowd_ends if number else last_ends,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(replicas() - before) >= 2, LONG_S, driver.output)
        crowd_ends.set()
        wait_until(lambda: len(replicas() - before) == 1, LONG_S, driver.output)  # while one goes on to ask
        answered = len(count)
        wait_until(lambda: len(count) > answered + 2, LONG_S, driver.output)
    finally:
        crowd_ends.set()
        last_ends.set()
        for thread in threads:
            thread.join()
    assert failures == []
    driver.process.kill()
    driver.process.wait()
    again = start(daemons, folder, port, "launch.workers=1")
    again.wait_until(lambda: "serving at" in again.output(), LONG_S)
    assert "ending the replicas of a command that was killed" in again.output()
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=LONG_S)
    stream = client.completions.create(model="model", prompt="the tree", max_tokens=300, stream=True)
    next(iter(stream))
    again.process.send_signal(signal.SIGTERM)  # what is being answered is answered first
    assert [event.choices[0].finish_reason for event in stream][-1] in ("length", "stop")
    assert again.wait(LONG_S) == 0, again.output()
    wait_until(lambda: not replicas() - before, LONG_S)


@pytest.mark.full
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["launch.workers=2", "path=nowhere"], "path=nowhere: there is no such folder"),
        (["launch.workers=99"], "launch.workers=99 needs 99"),
        ([], "launch.workers is not set"),
        (["launch.workers=1", "serve.host=0.0.0.0"], "give serve.keys=FILE"),
        (["launch.workers=1", "serve.tls_cert=a", "serve.tls_key=b"], "serve.tls_cert=a: there is no such file"),
        (["launch.workers=1", "launch.max_failures=9"], "launch.max_failures=9: it is about ranks"),
        (["launch.workers=1", "launch.nodes=2"], "launch.nodes=2: launch=ray has no such key"),
    ],
)
def test_what_cannot_serve_is_refused(daemons, folder, keys, said):
    import re

    driver = start(daemons, folder, free_port(), *keys)
    assert driver.wait(LONG_S) == 2
    assert re.search(said, driver.output()), driver.output()
    assert driver.output().count("banyan: ") == 1
    assert "Traceback" not in driver.output()
