"""Keys of clients: a file with one a line, plain or hashed, and what each may ask for in a minute."""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import ConfigError

HASHED = re.compile(r"sha256:[0-9a-f]{64}")
SHORTEST = 8  # characters of a key
MOST_BYTES = 2**20
WINDOW_S = 60.0


@dataclass
class Usage:
    """Requests and tokens of the last minute, by the time that they came."""

    requests: deque[float] = field(default_factory=deque)
    tokens: deque[tuple[float, int]] = field(default_factory=deque)

    def wait_s(self, now: float, most_requests: int, most_tokens: int) -> float:
        """Seconds until another request is allowed; 0 if it is now. A bound of 0 is none."""
        while self.requests and now - self.requests[0] >= WINDOW_S:
            self.requests.popleft()
        while self.tokens and now - self.tokens[0][0] >= WINDOW_S:
            self.tokens.popleft()
        waits = [0.0]
        if most_requests and len(self.requests) >= most_requests:
            waits.append(self.requests[0] + WINDOW_S - now)
        if most_tokens and sum(count for _, count in self.tokens) >= most_tokens:
            waits.append(self.tokens[0][0] + WINDOW_S - now)
        return max(waits)


@dataclass(frozen=True)
class Client:
    """Whoever has one key; without keys, everybody. `name` is for the log."""

    name: str
    digest: bytes = b""
    usage: Usage = field(default_factory=Usage)

    def begin(self, most_requests: int, most_tokens: int) -> float:
        """Counts a request, unless that must wait: then for how many seconds."""
        now = time.monotonic()
        wait = self.usage.wait_s(now, most_requests, most_tokens)
        if wait <= 0:
            self.usage.requests.append(now)
        return wait

    def spend(self, tokens: int) -> None:
        """Counts tokens that were asked or answered."""
        self.usage.tokens.append((time.monotonic(), tokens))


def hash_key(key: str) -> str:
    """How a key is written in the file without being told: sha256 of its UTF-8. Keys are random; no salt is needed."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def read_keys(file: str) -> list[Client]:
    """The clients of a file. ConfigError for one that others may read, and for lines that are no keys."""
    path = Path(file).expanduser()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            raise ConfigError(f"serve.keys={file}: not a file of keys, one a line.")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve.keys={file}: can't be read ({error}); give a file of keys, one a line.") from error
    if status.st_mode & (stat.S_IRGRP | stat.S_IROTH) and any(
        not HASHED.match(line) for line in lines if _is_key(line)
    ):
        raise ConfigError(f"serve.keys={file}: others may read the keys in it: chmod 600 {file}, or write hashes.")
    clients: list[Client] = []
    for number, line in enumerate(lines, start=1):
        if not _is_key(line):
            continue
        key, name = [*line.split(None, 1), ""][:2]
        if key.startswith("sha256:"):
            if not HASHED.fullmatch(key):
                raise ConfigError(
                    f"serve.keys={file}, line {number}: no sha256 of 64 hexadecimal digits; write it again."
                )
            digest = bytes.fromhex(key.removeprefix("sha256:"))
        elif len(key) < SHORTEST:
            raise ConfigError(
                f"serve.keys={file}, line {number}: a key of fewer than {SHORTEST} characters is guessed."
            )
        else:
            digest = hashlib.sha256(key.encode()).digest()
        clients.append(Client(name.strip() or f"key-{len(clients) + 1}", digest))
    if not clients:
        raise ConfigError(f"serve.keys={file}: no key in it; write one a line.")
    return clients


def find_client(clients: list[Client], authorization: str | None) -> Client | None:
    """Whose key an Authorization header holds. Every key is compared, in constant time."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
    found = [client for client in clients if hmac.compare_digest(client.digest, digest)]
    return found[0] if found else None


def _is_key(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
