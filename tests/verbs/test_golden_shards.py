"""The bytes that prepare writes for a fixed corpus: they may change only on purpose (raise VERSION in plan.py then).

`python -m tests.verbs.test_golden_shards` writes golden_shards.json anew; say why in the commit.
"""

import hashlib
import json
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.corpus import write_texts
from tests.prepared import prepare, shard_files, write_folder, write_jsonl
from trainer.data.text import collect, document_store, parts, shuffle, split

GOLDEN = Path(__file__).with_name("golden_shards.json")
SETTINGS = {
    "usual": {"validation_fraction": 0.1, "test_fraction": 0.1},
    "seed": {"seed": 7, "validation_fraction": 0.05},
    "duplicates": {"deduplicate": False},
    "unshuffled": {"shuffle_documents": False, "validation_fraction": 0.1},
    "unshuffled_duplicates": {"shuffle_documents": False, "deduplicate": False},
    "large_documents": {"shard_bytes": 700, "block_tokens": 100, "validation_fraction": 0.1},
    "one_shard": {"shard_bytes": 2**28, "block_tokens": 2**18},
}


def write_corpus(folder: Path) -> list[Path]:
    """Sources of every kind, with duplicates within and between them, blank lines, rejected records, long documents."""
    texts = write_folder(folder / "texts", 60)
    (texts / "empty.txt").write_text(" \n")
    (texts / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    lines = write_texts(300, seed=3)
    first = write_jsonl(folder / "first.jsonl", [*lines[:120], *write_texts(60)[10:30], *lines[5:20]])
    with first.open("ab") as file:
        file.write(b'\n\n{"text": 3}\nno json\n\xff\n{"text": ""}\n\r\n')
        file.write(json.dumps({"text": "long " + " ".join(lines[:40])}).encode() + b"\n")
        file.write(json.dumps({"text": "the last line has no end"}).encode())
    second = write_jsonl(folder / "second.jsonl", [*lines[100:300], *lines[:7], "a\u3000中文", "𝄞" * 50])
    with tarfile.open(folder / "raw.tar", "w") as archive:
        for path in sorted(texts.iterdir())[:25]:
            archive.add(path, arcname=path.name)
    return [texts, first, folder / "raw.tar", second]


def digests(output: Path) -> dict[str, str]:
    """For each split the hash of its files' hashes."""
    splits: dict[str, dict[str, str]] = {}
    for name, content in sorted(shard_files(output).items()):
        splits.setdefault(name.partition("/")[0], {})[name] = hashlib.sha256(content).hexdigest()
    return {split: hashlib.sha256(json.dumps(files).encode()).hexdigest() for split, files in splits.items()}


def measure(folder: Path, name: str, **more: int) -> dict[str, str]:
    """What prepare writes with the settings of this name."""
    return digests(prepare(write_corpus(folder), folder / "out", **SETTINGS[name] | more))


@pytest.mark.parametrize("name", SETTINGS)
def test_shards_are_the_golden_ones(tmp_path, name):
    assert measure(tmp_path, name) == json.loads(GOLDEN.read_text())[name]


CUTS = [(name, 5000) for name in ("usual", "seed", "unshuffled", "large_documents")]
CUTS += [pytest.param(name, size, marks=pytest.mark.full) for name in SETTINGS for size in (400, 1500)]


@pytest.mark.parametrize(("name", "size"), CUTS)
def test_however_the_work_is_cut_shards_are_the_golden_ones(tmp_path, monkeypatch, name, size):
    """Files are read in ranges of `size` bytes; there are dozens of buckets, and a dozen documents to a run."""
    monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", size)
    monkeypatch.setattr(split, "BUCKET_BYTES", 5 * size)
    monkeypatch.setattr(split, "FILE_BYTES", 12 * size)
    monkeypatch.setattr(document_store, "RUN_BYTES", 2 * size)
    monkeypatch.setattr(document_store, "READ_BYTES", 3 * size)
    monkeypatch.setattr(shuffle, "GATHERED_BYTES", 2 * size)
    monkeypatch.setattr(shuffle, "FEW_RUNS", 1)
    monkeypatch.setattr(parts, "BLOCK_ROWS", 3)
    assert measure(tmp_path, name) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    found = {}
    for each in SETTINGS:
        with tempfile.TemporaryDirectory() as place:
            found[each] = measure(Path(place), each)
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
