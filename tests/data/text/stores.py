"""Google Cloud Storage and the Hugging Face Hub as far as reading needs them, from the files of a folder."""

import json
import urllib.parse
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.data.text.servers import RangeHandler, made_anew, served_folder


class StoreHandler(RangeHandler):
    """A server that answers some paths with JSON and others with files."""

    def reply(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def give(self, name):
        """A file of the folder, or the range of it that is asked for."""
        self.path = "/" + urllib.parse.quote(name)
        super().do_GET()

    def files_below(self, prefix):
        """Names and sizes of the files whose names begin so, sorted."""
        root = Path(self.directory)
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        return [(name, (root / name).stat().st_size) for name in names if name.startswith(prefix)]

    def listed(self, prefix, *, recursive):
        """The files whose names begin so, and the folders in whose place none of their files is listed."""
        files, folders = [], set()
        for name, size in self.files_below(prefix):
            below = name.removeprefix(prefix)
            if "/" in below and not recursive:
                folders.add(prefix + below.partition("/")[0])
            else:
                files.append((name, size))
        return files, sorted(folders)


class CloudStorageHandler(StoreHandler):
    """gs://texts/…"""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        _, _, name = path.partition("/b/texts/o")
        name = urllib.parse.unquote(name.removeprefix("/"))
        if asked.get("alt") == "media":
            self.give(name)
        elif not name:
            self.reply(self._list(asked.get("prefix", ""), asked.get("delimiter", "")))
        elif found := [item for item in self.files_below(name) if item[0] == name]:
            self.reply(self._item(*found[0]))
        else:
            self.send_error(404)

    def _item(self, name, size):
        media = f"http://{self.headers['Host']}/download/storage/v1/b/texts/o/{urllib.parse.quote(name, safe='')}"
        more = {"generation": "1", "md5Hash": name, "mediaLink": f"{media}?alt=media"}
        return {"kind": "storage#object", "bucket": "texts", "name": name, "size": str(size), **more}

    def _list(self, prefix, delimiter):
        files, folders = self.listed(prefix, recursive=not delimiter)
        items = [self._item(*found) for found in files]
        return {"kind": "storage#objects", "items": items, "prefixes": [f"{folder}/" for folder in folders]}


class HubHandler(StoreHandler):
    """hf://datasets/OWNER/NAME/…, under any name."""

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        _, resolved, name = path.partition("/resolve/main/")
        if resolved:
            self.give(name)
        elif "/tree/main" in path:
            folder = path.partition("/tree/main")[2].strip("/")
            files, folders = self.listed(
                f"{folder}/" if folder else "", recursive="recursive=true" in self.path.lower()
            )
            self.reply([*(self._item(*found) for found in files), *map(self._folder, folders)])
        elif path.startswith("/api/datasets/"):
            self.reply(
                {
                    "id": "/".join(path.split("/")[3:5]),
                    "sha": "0" * 40,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
            )
        else:
            self.send_error(404)

    def _item(self, name, size):
        return {"type": "file", "path": name, "size": size, "oid": f"{hash(name) & 2**64 - 1:040x}"}

    def _folder(self, name):
        return {"type": "directory", "path": name, "oid": "0" * 40}


@contextmanager
def cloud_storage(folder):
    """The URL of a bucket of Google's with the files of a folder."""
    with served_folder(folder, CloudStorageHandler) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        with made_anew("gs"):
            yield "gs://texts"


@contextmanager
def hub(folder):
    """The URL of a dataset of the Hub with the files of a folder."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with served_folder(folder, HubHandler) as url, pytest.MonkeyPatch.context() as patch:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "ENDPOINT", url)
        with made_anew("hf"):
            yield "hf://datasets/owner/texts"
