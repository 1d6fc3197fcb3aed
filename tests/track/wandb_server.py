"""A W&B server on 127.0.0.1, just enough of one: GraphQL for runs and artifacts, file_stream, uploads.

with WandbServer() as server: os.environ["WANDB_BASE_URL"] = server.url
"""

import contextlib
import gzip
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = "tester"
KEY = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def own_wandb(monkeypatch, tmp_path):
    """W&B without a key, settings, or what another test left behind."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    import wandb
    from wandb.sdk.lib import wbauth

    wbauth.unauthenticate_session(update_settings=False)
    with contextlib.suppress(SystemExit):
        wandb.teardown()


@contextlib.contextmanager
def reachable_server(monkeypatch):
    """A server that W&B is pointed at, with a key for it."""
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server


@dataclass
class StoredRun:
    """What the server knows of one run."""

    project: str
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    display_name: str = ""
    starts: int = 0
    exit_codes: list[int] = field(default_factory=list)

    def steps(self, key: str = "train/loss") -> list[int]:
        return [row["step"] for row in self.history if key in row]


@dataclass
class StoredArtifact:
    """A version of an artifact: what is in it, which run made it, and which runs used it."""

    name: str
    kind: str
    digest: str
    metadata: dict
    aliases: list[str]
    made_by: str | None
    manifest: dict = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    used_by: list[str] = field(default_factory=list)
    committed: bool = False

    def references(self) -> dict[str, str]:
        return {path: entry["ref"] for path, entry in self.manifest["contents"].items() if "ref" in entry}


class WandbServer:
    """`silent` makes every further request hang, `silent_upserts` only those that start a run."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: list[StoredArtifact] = []  # whose places are their ids
        self.alerts: list[dict] = []
        self.silent = False
        self.silent_upserts = False
        self.authorizations: set[str] = set()
        self._closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # clients that gave up waiting
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "WandbServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def hang_while_silent(self, silent: bool) -> None:
        while silent and not self._closing.is_set():
            time.sleep(0.05)

    def graphql(self, query: str, variables: dict) -> dict:
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        answer = getattr(self, f"_{operation}", None)
        return answer(variables) if answer else {}

    def _Viewer(self, _: dict) -> dict:
        viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _ServerFeaturesQuery(self, _: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, variables: dict) -> dict:
        run = self.runs.get(variables["name"])
        bucket = run and {
            "id": variables["name"],
            "name": variables["name"],
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.display_name,
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": [],
            "notes": "",
            "wandbConfig": '{"t": 1}',
        }
        return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": ENTITY}, "bucket": bucket or None}}

    def _UpsertBucket(self, variables: dict) -> dict:
        self.hang_while_silent(self.silent_upserts)
        name, project = variables["name"], variables["project"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(project))
        if variables.get("config"):
            run.config.update(json.loads(variables["config"]))
        run.display_name = variables.get("displayName") or run.display_name
        run.starts += 1
        bucket = {
            "id": name,
            "name": name,
            "displayName": run.display_name,
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": ENTITY}},
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, variables: dict) -> dict:
        files = [{"name": f, "uploadUrl": f"{self.url}/put/{variables['run']}/{f}"} for f in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, _: dict) -> dict:
        return {"project": None}

    def _CreateArtifact(self, variables: dict) -> dict:
        """A new version, or the one with this content."""
        given = variables["input"]
        aliases = [alias["alias"] for alias in given["aliases"] or []]
        made = StoredArtifact(
            given["artifactCollectionName"],
            given["artifactTypeName"],
            given["digest"],
            json.loads(given["metadata"] or "{}"),
            aliases,
            given["runName"],
        )
        same = [each for each in self.artifacts if (each.name, each.digest) == (made.name, made.digest)]
        if same and given["enableDigestDeduplication"]:
            made = same[0]
        else:
            self.artifacts.append(made)
        state = "COMMITTED" if made.committed else "PENDING"
        number = next(place for place, each in enumerate(self.artifacts) if each is made)
        return {
            "createArtifact": {
                "artifact": {"id": f"A{number}", "state": state, "artifactSequence": {"latestArtifact": None}}
            }
        }

    def _artifact(self, name: str) -> StoredArtifact:
        return self.artifacts[int(name[1:])]

    def _CreateArtifactManifest(self, variables: dict) -> dict:
        url = f"{self.url}/put/{variables['artifactID']}/wandb_manifest.json"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _CreateArtifactFiles(self, variables: dict) -> dict:
        nodes = [
            {
                "storagePath": f"{file['artifactID']}/{file['name']}",
                "uploadUrl": f"{self.url}/put/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in variables["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, variables: dict) -> dict:
        self._artifact(variables["artifactID"]).committed = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "d"}}}

    def _UseArtifact(self, variables: dict) -> dict:
        given = variables.get("input", variables)
        self._artifact(given["artifactID"]).used_by.append(given["runName"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def _NotifyScriptableRunAlert(self, given: dict) -> dict:
        self.alerts.append(given)
        return {"notifyScriptableRunAlert": {"success": True}}

    def upload(self, owner: str, name: str, content: bytes) -> None:
        if owner in self.runs:
            self.runs[owner].files.append(name)
        elif name == "wandb_manifest.json":
            self._artifact(owner).manifest = json.loads(content)
        else:
            self._artifact(owner).files[name] = content

    def stream(self, run_id: str, body: dict) -> None:
        run = self.runs[run_id]
        history = body.get("files", {}).get("wandb-history.jsonl")
        if history:
            del run.history[history["offset"] :]
            run.history += [json.loads(line) for line in history["content"]]
        for line in body.get("files", {}).get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if body.get("complete"):
            run.exit_codes.append(body.get("exitcode"))


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _body(self) -> bytes:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw

        def _answer(self, content: dict) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = json.loads(self._body() or b"{}")
            server.hang_while_silent(server.silent)
            server.authorizations.add(self.headers.get("Authorization", ""))
            if self.path.endswith("/graphql"):
                self._answer({"data": server.graphql(body["query"], body.get("variables") or {})})
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], body)
                self._answer({"exitcode": None, "limits": {}})
            else:
                self._answer({})

        def do_PUT(self) -> None:
            content = self._body()
            server.hang_while_silent(server.silent)
            _, _, owner, name = self.path.split("/", 3)
            server.upload(owner, name, content)
            self._answer({})

        def log_message(self, *_: object) -> None:
            pass

    return Handler
