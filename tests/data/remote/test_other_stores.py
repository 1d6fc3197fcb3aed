"""gs:// by an emulator of Google's storage, hf:// by a stand-in for the Hub: the same rows as of the folder."""

import json
import os
import subprocess
import sys
from urllib.parse import parse_qs, quote
from urllib.request import Request, urlopen

import pytest

from tests.corpus import make_dataset
from tests.data.text.servers import served_folder
from tests.data.text.stores import HubHandler
from trainer.config import Data
from trainer.data.tokens.datasets import open_training
from trainer.machine.host import free_port

READ = """
import json, sys
import trainer.data.text.remote as remote
remote.FIRST_WAIT_S = 0.01
from trainer.config import Data
from trainer.data.tokens.datasets import open_training
from trainer.errors import InputError
cache, missing, *urls = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing.split()))
for url in urls:
    try:
        (dataset,) = open_training(Data(path=url, sequence_length=32, cache=cache, shuffle_shards=2))
        print(json.dumps([dataset.row(shard, 0).tolist() for shard in range(4)]))
    except InputError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "train", documents=60, shards=4)
    return folder


@pytest.fixture(scope="module")
def rows(data):
    (dataset,) = open_training(Data(path=str(data), sequence_length=32, shuffle_shards=2))
    return [dataset.row(shard, 0).tolist() for shard in range(4)]


def read(cache, *urls, missing="", **environment):
    """Rows at URLs, or why they can't be read; in another process, whose libraries have this environment."""
    command = [sys.executable, "-c", READ, str(cache), missing, *urls]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_bucket_of_google(data, rows, tmp_path):
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    port = free_port()
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="texts")
    server.start()
    url = f"http://127.0.0.1:{port}"
    try:
        for path in (path for path in data.rglob("*") if path.is_file()):
            name = quote(f"mine/{path.relative_to(data).as_posix()}", safe="")
            put = Request(f"{url}/upload/storage/v1/b/texts/o?uploadType=media&name={name}", path.read_bytes())
            put.add_header("Content-Type", "application/octet-stream")
            assert urlopen(put).status == 200
        # which the emulator doesn't have: buckets of folders, asked for by gRPC
        asked = {"FSSPEC_GS_TOKEN": "anon", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "STORAGE_EMULATOR_HOST": url}
        found, refused = read(tmp_path / "cache", "gs://texts/mine", "gs://texts/others", **asked)
        assert found == rows
        assert refused.startswith("data.path=gs://texts/others: no manifest.json there"), refused
    finally:
        server.stop()


class OneDataset(HubHandler):
    """The Hub, which has owner/name alone, and is asked for files by their paths as well."""

    def do_GET(self):
        if "/owner/name/" in f"{self.path}/":
            super().do_GET()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_POST(self):
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.reply([self._item(*found) for found in self.files_below("") if found[0] in asked["paths"]])


def test_a_data_set_on_the_hub(data, rows, tmp_path):
    with served_folder(data, OneDataset) as url:
        asked = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none"}
        urls = [f"hf://datasets/owner/{name}" for name in ("name", "other")]
        found, refused = read(tmp_path / "cache", *urls, **asked)
        assert found == rows
        assert refused.startswith("data.path=hf://datasets/owner/other: no manifest.json there"), refused


def test_without_the_package_a_line_names_the_extra(tmp_path):
    urls = ["gs://texts/mine", "hf://datasets/owner/name"]
    for url, refused in zip(urls, read(tmp_path / "cache", *urls, missing="gcsfs huggingface_hub"), strict=True):
        assert refused.startswith(f"{url}/manifest.json: {url[:5]} needs a package that is missing")
        assert refused.endswith('pip install "banyan-train[data]".')
