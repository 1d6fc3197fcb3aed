"""A stand-in for the Hugging Face Hub: what `huggingface_hub` asks to fetch a model's files at a commit."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class HubServer:
    """Models by OWNER/NAME: for each branch its commit, for each commit a folder. `asked` are the paths of requests."""

    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    folders: dict[tuple[str, str], Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    damaged: str | None = None  # the name of a file that is sent otherwise than it is stated
    url: str = ""

    def publish(self, repository: str, folder: Path, branch: str = "main") -> str:
        """Makes a folder the newest commit of a branch; the commit."""
        content = b"".join(path.name.encode() + path.read_bytes() for path in sorted(folder.iterdir()))
        commit = hashlib.sha1(content).hexdigest()
        self.branches.setdefault(repository, {})[branch] = commit
        self.folders[repository, commit] = folder
        return commit

    def describe(self, repository: str, revision: str) -> dict | None:
        """What the Hub says of a model at a revision."""
        commit = self.branches.get(repository, {}).get(revision, revision)
        folder = self.folders.get((repository, commit))
        if folder is None:
            return None
        files = []
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            git_hash = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            file = {"rfilename": path.name, "size": len(content), "blobId": git_hash}
            if path.suffix == ".safetensors":
                file["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            files.append(file)
        return {"_id": "0", "id": repository, "modelId": repository, "sha": commit, "siblings": files}

    def content(self, repository: str, commit: str, name: str) -> bytes | None:
        """A file, or None."""
        folder = self.folders.get((repository, commit))
        if folder is None or not (folder / name).is_file():
            return None
        content = (folder / name).read_bytes()
        return content[:-1] + bytes([content[-1] ^ 1]) if name == self.damaged else content


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A server on this machine, until the end of the `with`; HF_ENDPOINT must be its url."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                found = hub.describe("/".join(parts[2:4]), parts[5])
                error = "RevisionNotFound" if "/".join(parts[2:4]) in hub.branches else "RepoNotFound"
                self._send(json.dumps(found).encode() if found else None, error, {"Content-Type": "application/json"})
                return
            if len(parts) != 5 or parts[2] != "resolve":
                self._send(None, "EntryNotFound", {})
                return
            content = hub.content("/".join(parts[:2]), parts[3], parts[4])
            etag = hashlib.sha256(content or b"").hexdigest()
            self._send(content, "EntryNotFound", {"ETag": f'"{etag}"', "X-Repo-Commit": parts[3]})

        do_HEAD = do_GET

        def _send(self, content: bytes | None, error: str, headers: dict[str, str]) -> None:
            self.send_response(200 if content is not None else 404)
            if content is None:
                headers = {"X-Error-Code": error}
            for key, value in {**headers, "Content-Length": str(len(content or b""))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET" and content:
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
