"""Files at URLs that fail: now and then, from some place on, or always. In this process, and without waiting."""

import gzip
import http.server
import threading
import time
from collections import Counter

import pytest

from tests.corpus import write_texts
from tests.data.text.formats import jsonl
from tests.data.text.reading import assert_one_line, assert_refused, find, read
from tests.data.text.servers import served
from trainer.data.text import remote
from trainer.data.text.documents import read_documents
from trainer.errors import InputError

TEXTS = write_texts(200)
CONTENT = jsonl(TEXTS)
DOCUMENTS = [text.encode() for text in TEXTS]


class Server(http.server.BaseHTTPRequestHandler):
    """Gives CONTENT by ranges; what fails is told by the path: every third request, or all after some byte."""

    requests: Counter = Counter()  # noqa: RUF012

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.requests["HEAD"] += 1
        busy = "flaky" in self.path and self.requests["HEAD"] == 1
        self.send_response(404 if "gone" in self.path else 403 if "forbidden" in self.path else 503 if busy else 200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.send_header("ETag", f'"{self.path}"')
        self.end_headers()

    def do_GET(self):
        kind = self.path.strip("/").partition(".")[0]
        self.requests[kind] += 1
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        first, last = int(first), min(int(last or len(CONTENT)), len(CONTENT) - 1)
        if kind in ("gone", "forbidden"):
            self.send_error(404 if kind == "gone" else 403)
        elif (kind == "flaky" and self.requests[kind] % 3 == 1) or (kind == "ends" and first > 20_000):
            self.send_error(503)
        else:
            self.send_response(206)
            content = CONTENT[first : last + 1]
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(CONTENT)}")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:-5] if kind == "breaks" and self.requests[kind] % 2 else content)
            self.close_connection = True


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 5000)
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    Server.requests.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", waits
    server.shutdown()
    server.server_close()


def about(waits):
    """Within their jitter."""
    return pytest.approx(waits, rel=remote.JITTER)


@pytest.mark.parametrize("kind", ["flaky", "breaks"])
def test_requests_that_fail_now_and_then_are_made_again_with_back_off(kind, site):
    url, waits = site
    assert read(f"{url}/{kind}.jsonl") == DOCUMENTS
    assert waits
    assert waits == about([remote.FIRST_WAIT_S] * len(waits))
    assert len(set(waits)) > 1  # many who failed at once don't come again at once


def test_a_file_that_goes_away_midway_is_an_error_in_one_line_after_some_attempts(site):
    url, waits = site
    (source,) = find(f"{url}/ends.jsonl").sources
    got = []
    with pytest.raises(InputError) as error:
        got += (document for _, document in read_documents(source))
    assert_one_line(error, f"tried {remote.ATTEMPTS} times", "503")
    assert waits == about([remote.FIRST_WAIT_S * 2**attempt for attempt in range(remote.ATTEMPTS - 1)])


def test_what_is_not_there_or_not_allowed_is_refused_in_one_line(site):
    url, _ = site
    for kind in ("gone", "forbidden"):
        assert_refused(f"{url}/{kind}.jsonl", f"{url}/{kind}.jsonl")
    assert_refused(f"{url}/*.jsonl", "no file there matches", "{000..127}")
    assert_refused("ftp://127.0.0.1/x", "ftp://", "s3://")
    assert_refused("pipe:cat x", "pipe")


def test_a_server_that_cannot_be_reached_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    for url in ("http://127.0.0.1:9/x.jsonl", "s3://bucket/x.jsonl", "s3://bucket/*.jsonl"):
        assert_refused(url, url)


def test_the_identity_of_a_remote_file_is_what_its_server_says(site):
    url, _ = site
    (one,), (same,), (other,) = (find(f"{url}/{name}.jsonl").sources for name in ("a", "a", "b"))
    assert one == same
    assert one.modified_ns != other.modified_ns
    assert one.bytes == len(CONTENT)
    assert (one.name, one.kind) == ("a.jsonl", "jsonl")
    (query,) = find(f"{url}/a.jsonl?part=1").sources
    assert (query.name, query.kind) == ("a.jsonl", "jsonl")


def test_a_missing_package_is_named_in_one_line(monkeypatch):
    import fsspec

    def missing(url, **_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    assert_refused("s3://bucket/x", "s3fs", 'pip install "banyan-train[s3]"')


class PackingServer(http.server.BaseHTTPRequestHandler):
    """Says no size, calls what it gives packed, and packs what isn't, if asked or in any case; knows no ranges."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        packed = self.path.endswith(".gz") or "always" in self.path or "gzip" in self.headers["Accept-Encoding"]
        self.send_response(200)
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(gzip.compress(FEW) if packed else FEW)


FEW = jsonl(TEXTS[:9])


@pytest.mark.parametrize("path", ["a.jsonl.gz", "a.jsonl", "always.jsonl"])
def test_a_file_is_what_its_server_keeps_packed_or_not_and_of_unknown_size(path):
    with served(PackingServer) as url:
        assert read(f"{url}/{path}") == DOCUMENTS[:9]


@pytest.mark.parametrize("cause", [RuntimeError, TimeoutError, ConnectionResetError])
def test_what_is_hidden_behind_a_missing_file_is_tried_again(cause, monkeypatch):
    """Over HTTP, fsspec says of any failure that the file isn't there."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.0)
    failures = [FileNotFoundError("http://h/f")]
    failures[0].__cause__ = cause("of the network")

    def request():
        if failures:
            raise failures.pop()
        return 7

    assert remote.with_retries("http://h/f", request) == 7
