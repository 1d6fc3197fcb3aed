"""vLLM behind the front: what clients get of it is what they get of torch, and nothing of it outlives the server.

tests/peers/vllm.sh installs it.
"""

import os
import signal
import tempfile
import time
from pathlib import Path

import openai
import psutil
import pytest

from tests.hf_folder import make_folder
from tests.serve.running import running
from trainer.serve.choose import BOUNDS

VLLM = Path(tempfile.gettempdir()) / "banyan-peers" / "vllm"
START_S = 600.0
CONTEXT = 512
CHAT = [{"role": "user", "content": "the tree grows many"}]
LONG = {"model": "model", "prompt": "the tree", "max_tokens": 400, "temperature": 1.5, "seed": 5}

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not (VLLM / ".ready").exists(), reason="vLLM isn't installed: tests/peers/vllm.sh"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vllm") / "model"
    make_folder(path, max_position_embeddings=CONTEXT, hidden_size=128, head_dim=32)  # its CPU kernel's smallest
    return path


def serving(folder, engine, log):
    keys = [f"serve.engine={engine}", "serve.precision=f32", "serve.slots=2"]
    if engine == "vllm":
        keys.append(f"serve.vllm_python={VLLM / 'bin' / 'python'}")
    return running(folder, *keys, log=log, start_s=START_S)


@pytest.fixture(scope="module")
def vllm(folder):
    with serving(folder, "vllm", folder.parent / "vllm.log") as server:
        yield server


@pytest.fixture(scope="module")
def torch(folder):
    with serving(folder, "torch", folder.parent / "torch.log") as server:
        yield server


@pytest.fixture
def clients(vllm, torch):
    return [openai.OpenAI(base_url=f"{each.address}/v1", api_key="none", max_retries=0) for each in (vllm, torch)]


def family(server):
    """The server's processes below it."""
    return psutil.Process(server.process.pid).children(recursive=True)


def completed(client, **more):
    given = {"model": "model", "prompt": "the tree", "max_tokens": 12, "temperature": 0, **more}
    return client.completions.create(**given)


def test_completions_and_chats_are_those_of_torch(clients):
    for more in ({}, {"prompt": ["red stone", "a"]}, {"echo": True}, {"max_tokens": 1}, {"max_tokens": 0}):
        ours, theirs = (completed(client, **more) for client in clients)
        assert [choice.model_dump() for choice in ours.choices] == [choice.model_dump() for choice in theirs.choices]
        assert ours.usage == theirs.usage
    given = {"model": "model", "messages": CHAT, "max_tokens": 12, "temperature": 0}
    ours, theirs = (client.chat.completions.create(**given) for client in clients)
    assert ours.choices[0].model_dump() == theirs.choices[0].model_dump()
    assert ours.usage == theirs.usage


def test_streams_are_the_whole_and_count(clients):
    client = clients[0]
    whole = completed(client)
    chunks = list(completed(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    [end] = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert end == whole.choices[0].finish_reason
    given = {"model": "model", "messages": CHAT, "max_tokens": 12, "temperature": 0}
    chat = client.chat.completions.create(**given).choices[0].message.content
    pieces = client.chat.completions.create(**given, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == chat


def test_stops_end_an_answer_as_they_do_in_torch(clients):
    text = completed(clients[1], max_tokens=40).choices[0].text
    for stop in (text[9:12], text[4:5], ["\x00\x01", text[14:20]]):
        ours, theirs = (completed(client, max_tokens=40, stop=stop).choices[0] for client in clients)
        assert (ours.text, ours.finish_reason) == (theirs.text, "stop") == (theirs.text, theirs.finish_reason)


def test_seeds_say_what_is_sampled_whatever_is_answered_besides(clients):
    given = {"temperature": 1.5, "n": 3, "seed": 3, "max_tokens": 20}
    one, two = (completed(clients[0], **given) for _ in range(2))
    texts = [choice.text for choice in one.choices]
    assert texts == [choice.text for choice in two.choices]
    assert len(set(texts)) == 3
    alone = completed(clients[0], **given | {"n": 1, "seed": 4})
    assert alone.choices[0].text == texts[1]


def test_log_probabilities_are_those_of_torch(clients):
    ours, theirs = (completed(client, logprobs=4).choices[0].logprobs for client in clients)
    assert ours.tokens == theirs.tokens
    assert ours.text_offset == theirs.text_offset
    assert ours.token_logprobs == pytest.approx(theirs.token_logprobs, abs=BOUNDS["f32"])
    for mine, other in zip(ours.top_logprobs, theirs.top_logprobs, strict=True):
        assert mine == pytest.approx(other, abs=BOUNDS["f32"])
    given = {"model": "model", "messages": CHAT, "max_tokens": 3, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    ours, theirs = (client.chat.completions.create(**given).choices[0].logprobs.content for client in clients)
    assert [token.bytes for token in ours] == [token.bytes for token in theirs]
    assert [len(token.top_logprobs) for token in ours] == [2, 2, 2]


def test_a_client_that_goes_in_mid_stream_frees_its_slot(vllm, clients):
    for _ in range(2):  # as many as there are slots
        stream = clients[0].completions.create(**LONG, stream=True)
        next(iter(stream))
        stream.close()
    deadline = time.monotonic() + 60
    while "vllm:num_requests_running" not in (scraped := vllm.scrape()) or not any(
        line.startswith("vllm:num_requests_running") and line.endswith(" 0.0") for line in scraped.splitlines()
    ):
        assert time.monotonic() < deadline, scraped
        time.sleep(0.1)
    assert 'finished_reason="abort"' in scraped
    assert completed(clients[0]).choices[0].finish_reason in ("stop", "length")


def test_it_drains_and_nothing_of_vllm_is_left(folder, tmp_path):
    with serving(folder, "vllm", tmp_path / "log") as server:
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
        expected = client.completions.create(**LONG).choices[0].text
        children = family(server)
        assert len(children) > 1
        stream = client.completions.create(**LONG, stream=True)
        text = next(iter(stream)).choices[0].text
        server.process.send_signal(signal.SIGTERM)
        text += "".join(chunk.choices[0].text for chunk in stream)
        assert text == expected
        assert server.process.wait(START_S) == 0
    assert psutil.wait_procs(children, timeout=60)[1] == []


def test_a_server_that_is_killed_takes_vllm_with_it(folder, tmp_path):
    with serving(folder, "vllm", tmp_path / "log") as server:
        children = family(server)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        assert psutil.wait_procs(children, timeout=60)[1] == []
