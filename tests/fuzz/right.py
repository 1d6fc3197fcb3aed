"""What is right where a verb ends with 0: checks that share no code with what they check, as far as that can be."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import zstandard

from tests.fuzz import guard

PACKED_PIECE = 2**12  # bytes unpacked at once


def read(path: Path) -> bytes:
    """A file's bytes; ValueError where it is a hole that a mutation made, or a device."""
    if not path.is_file() or path.stat().st_size > guard.HASHED_BYTES:
        raise ValueError(f"{path}: no file of a sane size")
    return path.read_bytes()


def dataset_core(folder: Path) -> Any:
    """Of a dataset, all that decides which tokens and texts it holds; None where it can't be read."""
    try:
        content = json.loads(read(folder / "manifest.json"))
        files = {
            path.name: hashlib.md5(read(path)).hexdigest()
            for path in sorted(folder.iterdir())
            if path.suffix in (".tar", ".index")
        }
        tokenizer = read(folder / "tokenizer" / "tokenizer.json")
        keys = ("format", "version", "fingerprint", "dtype", "tokens", "documents", "text_bytes", "shards")
        decisive = {key: content[key] for key in keys}
        words = {key: content["tokenizer"][key] for key in ("sha256", "vocab_size", "end_of_text")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError):
        return None
    return json.dumps([decisive, words], sort_keys=True), files, hashlib.md5(tokenizer).hexdigest()


def checkpoint_core(folder: Path) -> Any:
    """Of a checkpoint, the files that COMPLETE names and what it says of them; None where that can't be read."""
    try:
        content = json.loads(read(folder / "COMPLETE"))["files"]
        files = {name: hashlib.md5(read(folder / name)).hexdigest() for name in sorted(content)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError):
        return None
    return json.dumps(content, sort_keys=True), files


def last_row(run_dir: Path) -> tuple[int, float] | None:
    """Step and loss of the last row of training."""
    try:
        lines = read(run_dir / "metrics.jsonl").decode().splitlines()
        rows = [row for row in map(json.loads, lines) if "train/loss" in row]
        return (rows[-1]["step"], rows[-1]["train/loss"]) if rows else None
    except (OSError, ValueError):
        return None


def tree(folder: Path) -> dict[str, str]:
    """The files of a folder by content."""
    return guard.snapshot(folder) if folder.is_dir() else {}


# ------------------------------------------------------------------------------------------------------------ prepare


def unpacked(content: bytes, packing: str) -> bytes | None:
    """What plain, gzip or zstandard bytes hold; None where that is more than one can look through here."""
    if packing not in (".gz", ".zst"):
        return content
    pieces, size = [], 0
    while content:
        if packing == ".gz":
            frame: Any = zlib.decompressobj(wbits=31)
        else:
            frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        for start in range(0, len(content), PACKED_PIECE):
            pieces.append(frame.decompress(content[start : start + PACKED_PIECE]))
            size += len(pieces[-1])
            if size > guard.HASHED_BYTES:
                return None
            if frame.eof:
                content = frame.unused_data + content[start + PACKED_PIECE :]
                content = content.lstrip(b"\0") if packing == ".gz" else content  # padding
                break
        else:
            raise ValueError("cut short")
    return b"".join(pieces)


def texts_of_lines(content: bytes) -> tuple[int, list[bytes]]:
    """Records in lines of JSON, and the texts among them that a document can be made of."""
    records, texts = 0, []
    for line in content.split(b"\n"):
        line = line.strip()
        if not line:
            continue
        records += 1
        line = line.removeprefix(b"\xef\xbb\xbf")  # where files with a mark were joined, a later line has one too
        try:
            value = json.loads(line.decode("utf-8"))
            text = value.get("text").encode("utf-8") if isinstance(value, dict) else None
        except (ValueError, AttributeError, RecursionError):
            continue
        if text is not None and usable(text):
            texts.append(text)
    return records, texts


def usable(text: bytes) -> bool:
    """Whether a document can be made of it: UTF-8 with something to see, without NUL."""
    try:
        return bool(text.decode("utf-8").strip()) and b"\0" not in text
    except UnicodeDecodeError:
        return False


def prepared(output: Path) -> tuple[int, int, list[bytes]]:
    """Of an output of prepare: documents read, documents rejected, and the texts, decoded."""
    from trainer.data.tokens.manifest import read_manifest
    from trainer.data.tokens.shards import open_shards
    from trainer.data.tokens.tokenizer import load_tokenizer

    manifest = read_manifest(output / "train")
    tokenizer = load_tokenizer(manifest.tokenizer_file)
    texts = []
    for reader in open_shards(manifest):
        for span in reader.documents(0, reader.tokens):
            texts.append(tokenizer.decode(reader.read(span.start, span.stop - 1)).encode("utf-8", "surrogatepass"))
    return manifest.documents_read, sum(manifest.rejected.values()), texts


# -------------------------------------------------------------------------------------------------------- references


def reference_loss(folder: Path, rows: Any) -> float:
    """Mean loss of what transformers makes of a folder, on rows (batch, length + 1)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    tokens = torch.tensor(rows)
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()))


def first_rows(data: Path, length: int, count: int) -> list[list[int]]:
    """The rows that a new run trains on first."""
    from trainer.config import Data
    from trainer.config.ramps import Ramps
    from trainer.data.tokens.datasets import open_training
    from trainer.data.tokens.history import History
    from trainer.data.tokens.mixture import mixture_in
    from trainer.data.tokens.order import Order

    settings = Data(path=str(data), sequence_length=length)
    training = open_training(settings)
    rows = [dataset.rows for dataset in training]
    history = History([], []).go_on(
        step=0, position=0, ramps=Ramps(count), rows=rows, mixture=mixture_in(settings, rows)
    )
    order = Order(rows, history.segments, seed=0, window=settings.shuffle_shards)
    return [training[0].row(place.shard, place.row).tolist() for place in order.places(0, count)]
