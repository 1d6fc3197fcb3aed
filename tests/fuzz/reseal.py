"""Hashes and counts made true again after a mutation: what an attacker, rather than a disk, leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tests.fuzz.right import read


def reseal_dataset(folder: Path) -> None:
    """Makes manifest.json true to the files beside it, as far as both can be read."""
    with contextlib.suppress(Exception):
        path = folder / "manifest.json"
        content = json.loads(read(path))
        for shard in content["shards"]:
            tar = folder / Path(shard["file"]).name
            _describe_shard(shard, tar)
        tokenizer = folder / "tokenizer" / "tokenizer.json"
        content["tokenizer"]["sha256"] = hashlib.sha256(read(tokenizer)).hexdigest()
        for total in ("tokens", "documents", "text_bytes"):
            content[total] = sum(shard[total] for shard in content["shards"])
        content["fingerprint"] = _fingerprint(content)
        path.write_text(json.dumps(content))


def _describe_shard(shard: dict[str, Any], tar: Path) -> None:
    body = read(tar)
    shard["bytes"], shard["sha256"] = len(body), hashlib.sha256(body).hexdigest()
    index_file = tar.with_suffix(".index")
    for key in [key for key in shard if "index" in key and "sha256" in key]:
        shard[key] = hashlib.sha256(read(index_file)).hexdigest()
    if index_file.stat().st_size < 2**20:
        with contextlib.suppress(Exception):
            index = np.load(io.BytesIO(read(index_file)))
            if index.ndim == 2 and index.dtype == np.int64:
                shard["tokens"], shard["documents"] = int(index[:, 1].sum()), int(index[:, 2].sum())


def _fingerprint(content: dict[str, Any]) -> str:
    from trainer.data.tokens.manifest import CONTENT_VERSION, FORMAT

    shards = [
        [shard["sha256"], shard["tokens"], shard["documents"], shard["text_bytes"]] for shard in content["shards"]
    ]
    tokenizer = content["tokenizer"]
    text = json.dumps(
        [FORMAT, CONTENT_VERSION, tokenizer["sha256"], tokenizer["end_of_text"], content["dtype"], shards]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def reseal_checkpoint(folder: Path) -> None:
    """Makes COMPLETE true to the files beside it."""
    with contextlib.suppress(Exception):
        path = folder / "COMPLETE"
        content = json.loads(read(path))
        for name, described in content["files"].items():
            file = folder / Path(name).name
            with contextlib.suppress(OSError, ValueError):
                body = read(file)
                described.pop("parts", None)
                described |= {"bytes": len(body), "xxh3_128": xxhash.xxh3_128_hexdigest(body)}
        path.write_text(json.dumps(content))
