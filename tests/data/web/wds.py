"""WebDatasets as the stock library writes them, and their index."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import webdataset

from tests.corpus import make_tokenizer
from trainer.config import Data, Prepare, TokenizerSettings
from trainer.verbs.index import main

SIZES = (1, 30, 2, 40, 24)  # samples of the tars


def write_wds(folder: Path, samples: list[dict], sizes: tuple[int, ...] = SIZES) -> Path:
    """Tars of these many samples each, by webdataset's own writer."""
    folder.mkdir(parents=True)
    left = iter(enumerate(samples))
    for number, size in enumerate(sizes):
        with webdataset.TarWriter(str(folder / f"{number:06d}.tar")) as writer:
            for key, sample in (next(left) for _ in range(size)):
                writer.write({"__key__": f"doc{key:06d}", **sample})
    return folder


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def configure_index(inputs: str, folder: Path, **data) -> Prepare:
    """`banyan data index` of these inputs to folder/index, with the tokenizer of the tests' words."""
    if not (folder / "tokenizer").exists():
        make_tokenizer().save(folder / "tokenizer")
    tokenizer = TokenizerSettings(path=str(folder / "tokenizer"))
    settings = {"output": str(folder / "index"), "tokenizer": tokenizer, "workers": 1} | data
    return Prepare(data=Data(input=[inputs], **settings))


def index_wds(inputs: str, folder: Path, **data) -> Path:
    """Runs it to its end; the output."""
    config = configure_index(inputs, folder, **data)
    assert main(config) == 0
    return Path(str(config.data.output))
