"""Servers in this process that give the files of a folder: over HTTP, with and without ranges, and as an S3 bucket."""

import functools
import http.server
import re
import threading
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest


class PlainHandler(http.server.SimpleHTTPRequestHandler):
    """Python's own server, which knows no ranges."""

    def log_message(self, *_):
        pass


class RangeHandler(PlainHandler):
    """A server with ranges."""

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first : last + 1])


class Server(http.server.ThreadingHTTPServer):
    """A server that doesn't mind clients who hang up."""

    def handle_error(self, request, client_address):
        pass


@contextmanager
def served(handler):
    """The URL of a server whose requests are handled by `handler`."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def served_folder(folder, handler):
    """The URL of a server that gives the files of a folder."""
    return served(functools.partial(handler, directory=folder))


@contextmanager
def made_anew(protocol):
    """Without file systems that were made for other servers, now or later."""
    kind = pytest.importorskip("fsspec").get_filesystem_class(protocol)
    kind.clear_instance_cache()
    yield
    kind.clear_instance_cache()


class BucketServer:
    """A server of S3 that can go away and come back with the same content."""

    def __init__(self, moto):
        self._moto, self.port = moto, 0
        self.start()

    def start(self):
        self._server = self._moto.ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self):
        self._server.stop()
        self._server._server.server_close()  # else requests would wait for an answer


@contextmanager
def bucket_server():
    """A server of S3 that the environment names."""
    server = BucketServer(pytest.importorskip("moto.server"))
    with pytest.MonkeyPatch.context() as patch, made_anew("s3"):
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        yield server
        server.stop()


def fill_bucket(folder, name=None):
    """A new bucket with the files of a folder; its URL."""
    import s3fs

    name = name or f"texts-{uuid.uuid4().hex}"
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir(name)
    files.put(f"{folder}/", f"{name}/", recursive=True)
    return f"s3://{name}"
