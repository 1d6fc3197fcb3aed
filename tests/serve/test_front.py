"""The front over real sockets: what the openai client gets, and what badly behaved ones don't."""

import base64
import itertools
import json
import socket
import struct
import threading
import time

import openai
import pytest

from tests.serve.conftest import run_verb, serving
from trainer.config import Checkpoint, Run
from trainer.data.examples.render import Renderer
from trainer.run.speaker import open_speaker

CHAT = [{"role": "user", "content": "the tree grows many"}]


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def speaker(trained):
    return open_speaker(Run(dir=str(trained / "runs" / "a")), Checkpoint(), None)


def greedy(speaker, prompt, count):
    from trainer.evaluate.sampling import Sampling

    return "".join(speaker.continue_prompt(prompt, Sampling(max_tokens=count, temperature=0)))


def test_models_health_and_page(server, client):
    [model] = client.models.list().data
    assert (model.id, model.root, model.step, model.engine, model.max_model_len) == ("tree", "a", 4, "torch", 128)
    assert client.models.retrieve("tree").id == "tree"
    assert server.ask("/health")[0] == server.ask("/ready")[0] == 200
    status, headers, page = server.ask("/")
    assert status == 200
    assert b"<!doctype html>" in page[:40]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "access-control-allow-origin" not in headers  # no other site's page may ask


def test_a_greedy_completion_is_that_of_generate(client, speaker):
    found = client.completions.create(model="tree", prompt="the tree", max_tokens=12, temperature=0)
    assert found.choices[0].text == greedy(speaker, "the tree", 12)
    assert found.choices[0].finish_reason in ("length", "stop")
    assert found.usage.prompt_tokens == len(speaker.prompt_ids("the tree"))
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    ids = client.completions.create(model="tree", prompt=speaker.prompt_ids("the tree"), max_tokens=12, temperature=0)
    assert ids.choices[0].text == found.choices[0].text
    echoed = client.completions.create(model="tree", prompt="the tree", max_tokens=12, temperature=0, echo=True)
    assert echoed.choices[0].text == "the tree" + found.choices[0].text


def test_several_prompts_and_answers_with_seeds(client):
    given = {"model": "tree", "prompt": ["the tree", "red stone"], "max_tokens": 6, "n": 2, "seed": 3}
    one, two = client.completions.create(**given), client.completions.create(**given)
    texts = [choice.text for choice in one.choices]
    assert [choice.index for choice in one.choices] == [0, 1, 2, 3]
    assert texts == [choice.text for choice in two.choices]
    assert texts[0] != texts[1]
    other = client.completions.create(**given | {"seed": 4})
    assert other.choices[0].text == texts[1]  # the seed of the second answer is the first's, plus one


def test_streams_are_the_whole_and_count(client):
    given = {"model": "tree", "messages": CHAT, "max_tokens": 16, "temperature": 0}
    whole = client.chat.completions.create(**given)
    chunks = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    [end] = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert end == whole.choices[0].finish_reason
    pieces = list(client.completions.create(model="tree", prompt="rain", max_tokens=9, temperature=0, stream=True))
    plain = client.completions.create(model="tree", prompt="rain", max_tokens=9, temperature=0)
    assert "".join(piece.choices[0].text for piece in pieces) == plain.choices[0].text


def test_log_probabilities_in_both_shapes(client, speaker):
    import torch

    found = client.completions.create(model="tree", prompt="the tree", max_tokens=3, temperature=0, logprobs=4)
    told = found.choices[0].logprobs
    ids = speaker.prompt_ids("the tree")
    with torch.no_grad():
        logits = speaker.model(torch.tensor([ids]), cache=speaker.model.new_cache(128))[0, -1].float()
    expected = logits.log_softmax(-1)
    assert told.token_logprobs[0] == pytest.approx(float(expected.max()), abs=1e-5)
    assert sorted(told.top_logprobs[0].values(), reverse=True) == pytest.approx(
        expected.topk(4).values.tolist(), abs=1e-5
    )
    assert "".join(told.tokens) == found.choices[0].text
    assert told.text_offset == [len("".join(told.tokens[:place])) for place in range(len(told.tokens))]
    chat = client.chat.completions.create(
        model="tree", messages=CHAT, max_tokens=2, temperature=0, logprobs=True, top_logprobs=2
    )
    first = chat.choices[0].logprobs.content[0]
    assert len(first.top_logprobs) == 2
    assert first.top_logprobs[0].logprob == pytest.approx(first.logprob)
    assert bytes(first.bytes).decode() == first.token


def test_an_answer_ends_before_a_stop_sequence_however_tokens_cut_it(client):
    given = {"model": "tree", "prompt": "the tree", "max_tokens": 60, "temperature": 1.5, "seed": 5}
    text = client.completions.create(**given).choices[0].text
    assert len(text) > 30
    for first, size in ((3, 1), (5, 4), (8, 9)):
        stopped = given | {"stop": ["\x00\x01", text[first : first + size]]}
        found = client.completions.create(**stopped)
        assert found.choices[0].text == text[: text.index(text[first : first + size])]
        assert found.choices[0].finish_reason == "stop"
        streamed = client.completions.create(**stopped, stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == found.choices[0].text


def test_ids_of_training_are_ids_of_serving(server, speaker):
    whole = [*CHAT, {"role": "assistant", "content": "trunks and every root"}]
    trained_on = Renderer(speaker.tokenizer).chat(whole) if hasattr(Renderer, "chat") else None
    served = server.ask("/tokenize", {"messages": CHAT})[2]["tokens"]
    assert served == speaker.chat_ids(CHAT)
    if trained_on is not None:
        assert list(trained_on.ids[: len(served)]) == served
    text = server.ask("/detokenize", {"tokens": server.ask("/tokenize", {"prompt": "naïve 漢字 🌳"})[2]["tokens"]})[2]
    assert text == {"prompt": "naïve 漢字 🌳"}


def test_embeddings_are_those_of_explain(trained, client):
    found = client.embeddings.create(model="tree", input=["the tree", "red stone while"])
    vectors = [each.embedding for each in found.data]
    assert [len(vector) for vector in vectors] == [48, 48]
    raw = client.with_raw_response.embeddings.create(model="tree", input="the tree", encoding_format="base64")
    packed = base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])
    assert list(struct.unpack("<48f", packed)) == pytest.approx(vectors[0], abs=1e-6)
    dot = sum(a * b for a, b in zip(*vectors, strict=True))
    norms = [sum(a * a for a in vector) ** 0.5 for vector in vectors]
    said = run_verb(trained, "explain", "similarity", "run.dir=runs/a", "a=the tree", "b=red stone while")
    assert f"{dot / norms[0] / norms[1]:.4f}" in said


@pytest.mark.parametrize(
    ("content", "param", "status"),
    [
        ({"prompt": "a", "temperature": "hot"}, "temperature", 400),
        ({"prompt": "a", "temperature": -1}, "temperature", 400),
        ({"prompt": "a", "max_tokens": -3}, "max_tokens", 400),
        ({"prompt": "a", "n": 0}, "n", 400),
        ({"prompt": "a", "n": True}, "n", 400),
        ({"prompt": "a", "stop": [""]}, "stop", 400),
        ({"prompt": "a", "logit_bias": {"3": 9}}, "logit_bias", 400),
        ({"prompt": "a", "no_such_key": 1}, "no_such_key", 400),
        ({"prompt": {"a": 1}}, "prompt", 400),
        ({"prompt": [1, 99999]}, "prompt", 400),
        ({"prompt": "\ud800"}, "prompt", 400),
        ({"prompt": "tree " * 400}, "prompt", 400),
        ({"prompt": "a", "model": "gpt-4"}, "model", 404),
        ({"prompt": "a", "model": "\ud800"}, "model", 404),
        ({"prompt": "a", "\ud800": 1}, "\ud800", 400),
        ({"prompt": "a", "temperature": 10**400}, "temperature", 400),
        ({"prompt": "a", "n": 10**9}, "n", 400),
        ({"prompt": "a", "max_tokens": 10**12}, "max_tokens", 400),
        ({"prompt": "a", "logprobs": 10**6}, "logprobs", 400),
        ({"prompt": "a", "stop": ["x"] * 10_000}, "stop", 400),
    ],
)
def test_what_cannot_be_answered_is_refused_by_its_key(server, content, param, status):
    found, _, answer = server.ask("/v1/completions", content)
    assert (found, answer["error"]["param"]) == (status, param)
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[1]", b"\xff\xfe{}", b'{"prompt": NaN}', b"[" * 100000, b'"a"'),
        *(b'{"temperature": Infinity}', b'{"n": ' + b"9" * 5000 + b"}"),
    ],
    ids=["empty", "cut", "list", "no UTF-8", "NaN", "deep", "text", "infinity", "digits"],
)
def test_a_body_that_is_no_object_is_refused(server, raw):
    status, _, answer = server.ask("/v1/chat/completions", raw=raw)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_errors_of_routes_have_the_same_shape(server):
    for path, method, status in (
        ("/v1/nothing", "GET", 404),
        ("/v1/models", "DELETE", 405),
        ("/../etc/passwd", "GET", 404),
    ):
        found, _, answer = server.ask(path, method=method)
        assert (found, set(answer["error"])) == (status, {"message", "type", "param", "code"})
    assert server.ask("/v1/chat/completions", {"messages": [{"role": "user"}]})[0] == 400
    assert server.ask("/v1/chat/completions", {"messages": [{"role": "robot", "content": "a"}]})[0] == 400
    assert server.ask("/v1/embeddings", {"input": ""})[0] == 400


NO_HTTP = (
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000,
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)


def test_what_is_no_http_has_the_same_shape_and_leaves_no_traceback(server):
    for sent in NO_HTTP:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as other:
            other.sendall(sent)
            head, _, body = other.recv(10_000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), sent[:40]
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
    stream = b'{"prompt": "a", "max_tokens": 100, "stream": true}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as other:  # in the middle of an answer
        other.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(stream) + stream)
        assert other.recv(100).startswith(b"HTTP/1.1 200 ")
        other.sendall(b"\x00\xff\r\n\r\n")
        while other.recv(65536):
            pass
    server.until("vllm:num_requests_running", 0)
    assert server.ask("/%0d%0aserve:%20a%20forged%20line")[0] == 404
    assert "Traceback" not in server.log
    assert "forged" not in server.log


def test_another_sites_page_may_not_ask(server):
    given = {"prompt": "a", "max_tokens": 1}
    status, headers, answer = server.ask("/v1/completions", given, headers={"Sec-Fetch-Site": "cross-site"})
    assert (status, answer["error"]["code"]) == (403, "cross_origin")
    assert "access-control-allow-origin" not in headers
    assert server.ask("/v1/completions", given, headers={"Sec-Fetch-Site": "same-origin"})[0] == 200


def test_a_long_prompt_holds_up_no_other_answer(server):
    """A megabyte takes a tokenizer a second or two."""
    found = []
    given = {"prompt": "a" * 1_000_000}  # serve.body_bytes is a little more
    long = threading.Thread(target=lambda: found.append(server.ask("/v1/completions", given)[0]))
    long.start()
    count = 0
    while not found:
        assert server.ask("/health")[0] == 200
        count += not found
    long.join()
    assert found == [400]
    assert count > 2


def test_a_client_that_goes_away_frees_its_slot(server):
    server.until("vllm:num_requests_running", 0)
    before = server.metric("vllm:request_success_total")
    body = json.dumps({"prompt": "the tree", "max_tokens": 100, "stream": True, "temperature": 3}).encode()
    for number in range(3):
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            gone.sendall(head + body)
            assert gone.recv(200).startswith(b"HTTP/1.1 200")
            if number == 1:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    server.until("vllm:num_requests_running", 0)
    deadline = time.monotonic() + 10
    while server.metric("vllm:request_success_total") < before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_scraped_counts_what_was_answered(server, client):
    server.until("vllm:num_requests_running", 0)
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:e2e_request_latency_seconds_count")
    before = [server.metric(name) for name in names]
    found = client.completions.create(model="tree", prompt="red stone", max_tokens=7, temperature=0)
    after = [server.metric(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [
        found.usage.prompt_tokens, found.usage.completion_tokens, 1,
    ]  # fmt: skip


def test_no_prompt_is_in_the_log(server, client):
    client.completions.create(model="tree", prompt="a secret of mine", max_tokens=2)
    assert "secret" not in server.log


@pytest.fixture(scope="module")
def guarded(trained):
    """With keys, small limits and short patience."""
    from trainer.serve.keys import hash_key

    file = trained / "keys.txt"
    file.write_text(f"# who may ask\nplain-key-of-ann ann\n{hash_key('key-of-bob')} bob\nkey-of-carl carl\n")
    file.chmod(0o600)
    keys = (
        "path=a-hf", "serve.engine=torch", f"serve.keys={file}", "serve.body_bytes=2000", "serve.timeout_s=1.5",
        "serve.requests_per_minute=6", "serve.slots=1", "serve.waiting=0",
    )  # fmt: skip
    run_verb(trained, "export", "run.dir=runs/a", "export.output=a-hf")
    with serving(trained, *keys) as found:
        yield found


def test_keys(guarded):
    for key, status in (
        (None, 401), ("Bearer wrong", 401), ("Basic plain-key-of-ann", 401), ("Bearer plain-key-of-ann", 200),
        ("bearer key-of-bob", 200), ("Bearer sha256:00", 401),
    ):  # fmt: skip
        found, headers, answer = guarded.ask("/v1/models", headers={"Authorization": key} if key else {})
        assert found == status, key
        if status == 401:
            assert answer["error"]["code"] == "invalid_api_key"
            assert headers["WWW-Authenticate"] == "Bearer"
    assert guarded.ask("/metrics")[0] == guarded.ask("/card")[0] == 401
    assert guarded.ask("/health")[0] == guarded.ask("/")[0] == 200


def test_bodies_clients_and_minutes_have_bounds(guarded):
    bob, carl = ({"Authorization": f"Bearer key-of-{name}"} for name in ("bob", "carl"))
    assert guarded.ask("/v1/completions", {"prompt": "a" * 5000}, headers=bob)[0] == 413
    status, _, answer = guarded.ask("/v1/completions", raw=b" " * 20_000_000, headers=bob)  # sent whole, then it reads
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    assert guarded.ask("/v1/completions", raw=b" " * 20_000_000)[0] == 401
    with socket.create_connection(("127.0.0.1", guarded.port)) as chunked:  # without a length that would tell
        chunked.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-of-bob\r\n")
        chunked.sendall(b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b" " * 1000 + b"\r\n")
        chunked.sendall(b"bb8\r\n" + b" " * 3000 + b"\r\n")
        assert b" 413 " in chunked.recv(100)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # and it ends, however much more is sent
            [chunked.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n") for _ in itertools.count()]
    for sent, status in ((b"POST /v1/compl", b""), (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: "
                         b"Bearer key-of-bob\r\nContent-Length: 50\r\n\r\n{", b" 408 ")):  # fmt: skip
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as slow:
            slow.sendall(sent)
            assert status in slow.recv(100)
    statuses = [guarded.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}, headers=carl)[0] for _ in range(8)]
    assert statuses == [200] * 6 + [429] * 2
    status, headers, answer = guarded.ask("/v1/completions", {"prompt": "a"}, headers=carl)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(headers["Retry-After"]) <= 60


def test_one_that_never_reads_loses_its_slot(guarded):
    ann = {"Authorization": "Bearer plain-key-of-ann"}
    body = json.dumps({"prompt": "a", "max_tokens": 100, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", guarded.port)) as stuck:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: {ann['Authorization']}\r\n"
        stuck.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.3)
    threads, found = [], []
    given = {"prompt": "a", "max_tokens": 100, "temperature": 2.0}

    def ask():
        found.append(guarded.ask("/v1/completions", given, headers=ann)[0])

    for _ in range(3):  # one slot, nobody may wait
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert found.count(200) >= 1
    assert set(found) <= {200, 503}
