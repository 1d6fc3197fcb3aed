"""A simulated object store: HTTP with ranges over a folder, slow, jittery, failing or away as a test wants it."""

import random
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from tests.data.text.servers import PlainHandler, served


class Store:
    """What a store does to requests, which may change while it serves; what was asked of it, in order."""

    def __init__(self, folder, *, latency_s=0.0, jitter_s=0.0, failing=0.0, bytes_per_second=None):
        self.folder, self.latency_s, self.jitter_s, self.failing = Path(folder), latency_s, jitter_s, failing
        self.bytes_per_second = bytes_per_second
        self.away = False
        self.asked: list[str] = []
        self.sent = 0
        self._draw, self._mutex, self._free_at = random.Random(0), threading.Lock(), 0.0

    def gets(self, name):
        """How often bytes of a file were asked for."""
        return sum(each.endswith(name) for each in self.asked)

    def throttle(self, count):
        """Waits as long as these bytes take on a link that all requests share."""
        if self.bytes_per_second is None:
            return
        with self._mutex:
            self._free_at = max(self._free_at, time.monotonic()) + count / self.bytes_per_second
            wait = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait))


class StoreHandler(PlainHandler):
    """Answers from `store`'s folder."""

    protocol_version = "HTTP/1.1"
    store: Store

    def _answers(self):
        store = self.store
        time.sleep(max(0.0, store.latency_s + store._draw.uniform(-1, 1) * store.jitter_s))
        if store.away or store._draw.random() < store.failing:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        return True

    def _send(self, *, body):
        if not self._answers():
            return
        path = self.store.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)) if asked else (0, None)
        part = content[first : None if last is None else last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if body:
            self.store.asked.append(self.path)
            self.store.throttle(len(part))
            self.store.sent += len(part)
            self.wfile.write(part)

    def do_GET(self):
        self._send(body=True)

    def do_HEAD(self):
        self._send(body=False)


@contextmanager
def serving(store):
    """The URL of a store."""
    handler = type("Handler", (StoreHandler,), {"store": store})
    with served(lambda *arguments: handler(*arguments, directory=store.folder)) as url:
        yield url
