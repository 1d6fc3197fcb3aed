"""A mixed corpus with faults planted in it: each is accounted for, and the bytes are the same whatever was killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("numba")
pytest.importorskip("resiliparse")

from launch.compose import compose
from tests.killed import kill_after_files
from tests.planted import Corpus, evaluation_set, made_texts, overrides, real_texts, write_corpus
from tests.prepared import shard_files
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.data.revise.revise import COPIES_ADDED
from trainer.data.text import collect, split
from trainer.data.tokens.manifest import Manifest, read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.verbs.data import main as data_main
from trainer.verbs.prepare import main

SIZES = ["made", pytest.param("real", marks=pytest.mark.full)]
UNREAD = ("bad_json", "bad_record", "no_text_field", "empty", "undecodable")
SMALL = {"made": (15_000, 60_000), "real": (400_000, 2_000_000)}  # bytes of work items, and of buckets
PROGRAM = """
import json, sys
from launch.compose import compose
from trainer.data.text import collect, split
from trainer.verbs.prepare import main

if __name__ == "__main__":
    item, bucket = json.loads(sys.argv[1])
    collect.LEAST_ITEM_BYTES, split.BUCKET_BYTES, split.FILE_BYTES = item, bucket, bucket
    print(main(compose("prepare", sys.argv[2:])))
"""


@dataclass
class Prepared:
    """A corpus, what was made of it in one process, and of the same without plants."""

    size: str
    corpus: Corpus
    evaluation: Path
    output: Path
    unplanted: Manifest

    @property
    def manifests(self) -> list[Manifest]:
        """Of both splits."""
        return [read_manifest(self.output / name) for name in ("train", "validation")]

    def command(self, output: Path, *more: str) -> list[str]:
        """A prepare of it in a process of its own, in small pieces."""
        sizes = json.dumps(SMALL[self.size])
        return [sys.executable, "-c", PROGRAM, sizes, *overrides(self.corpus, self.evaluation, output), *more]


@pytest.fixture(scope="module", params=SIZES)
def prepared(request, tmp_path_factory):
    """What became of a corpus."""
    folder = tmp_path_factory.mktemp("planted")
    texts = made_texts(24) if request.param == "made" else real_texts()
    evaluation = evaluation_set(folder / "evaluation.jsonl")
    plain = write_corpus(folder / "plain", texts, planted=False)
    corpus = write_corpus(folder / "corpus", texts)
    with pytest.MonkeyPatch.context() as patch:
        item, bucket = SMALL[request.param]
        patch.setattr(collect, "LEAST_ITEM_BYTES", item)
        patch.setattr(split, "BUCKET_BYTES", bucket)
        patch.setattr(split, "FILE_BYTES", bucket)
        for source, output in ((plain, "unplanted"), (corpus, "output")):
            given = [*overrides(source, evaluation, folder / output), "data.workers=1"]
            assert main(compose("prepare", given)) == 0
    unplanted = read_manifest(folder / "unplanted" / "train")
    return Prepared(request.param, corpus, evaluation, folder / "output", unplanted)


def train_changes(prepared: Prepared) -> dict[str, int]:
    return read_manifest(prepared.output / "train").prepared["changed"]


def texts_of(manifest: Manifest) -> list[str]:
    tokenizer = load_tokenizer(manifest.tokenizer_file)
    return [
        tokenizer.decode(reader.read(span.start, span.stop - 1))
        for reader, shard in zip(open_shards(manifest), manifest.shards, strict=True)
        for span in reader.documents(0, shard.tokens)
    ]


def test_every_document_is_counted_once(prepared):
    train, validation = prepared.manifests
    more = Counter(train.rejected)
    more.subtract(prepared.unplanted.rejected)
    assert {reason: count for reason, count in more.items() if count} == prepared.corpus.rejected
    kept = train.documents + validation.documents - train.prepared["changed"][COPIES_ADDED]
    assert kept + sum(train.rejected.values()) == train.documents_read
    planted = len([plant for plant in prepared.corpus.plants if "original" not in plant.kind])
    unread = sum(prepared.corpus.rejected[reason] for reason in UNREAD)
    assert train.documents_read == prepared.unplanted.documents_read + planted + unread


def test_documents_stand_as_often_as_their_cluster_is_large(prepared):
    """Those of two, by exact copies as well; held-out documents stand once."""
    train, validation = (Counter(texts_of(manifest)) for manifest in prepared.manifests)
    assert set(validation.values()) == {1}
    assert max(train.values()) == 2
    added = sum(count - 1 for count in train.values())
    assert added == train_changes(prepared)[COPIES_ADDED]


def test_personal_data_is_masked_and_counted_by_kind(prepared):
    changed = train_changes(prepared)
    before = prepared.unplanted.prepared["changed"]
    masked = {kind: f"personal: {kind} masked" for kind in prepared.corpus.masked}
    more = {kind: changed[name] - before.get(name, 0) for kind, name in masked.items()}
    assert more == prepared.corpus.masked


def test_the_shards_hold_what_was_repaired_and_nothing_that_had_to_go(prepared):
    texts = [text for manifest in prepared.manifests for text in texts_of(manifest)]
    everything = "\n".join(texts)
    for text in prepared.corpus.repaired:
        assert text in texts
    for text in prepared.corpus.absent:
        assert text not in everything


def test_why_tells_of_every_plant_what_became_of_it(prepared, capsys):
    for plant in prepared.corpus.plants:
        assert data_main(["why", str(prepared.output), f"id={plant.id}"]) == 0
        assert re.search(plant.fate, capsys.readouterr().out), plant


@pytest.mark.parametrize(("workers", "kills"), [(2, 2), pytest.param(3, 0, marks=pytest.mark.full)])
def test_the_same_bytes_by_several_processes_that_were_killed(prepared, tmp_path, workers, kills):
    """All files: shards, record of cleaning, near-duplicates; by kill -9 at moments that differ."""
    output = tmp_path / "again"
    command = prepared.command(output, f"data.workers={workers}")
    for number in range(kills):
        process = subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with process:
            assert kill_after_files(process, output, 4 + 23 * number), "it ended before it was killed"
    done = subprocess.run(command, env=_environment(), stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.endswith("\n0\n")
    assert ("continue" in done.stdout) == (kills > 0)
    assert shard_files(output) == shard_files(prepared.output)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.getcwd()}


def test_a_model_trains_on_it(prepared, tmp_path):
    config = small_config(prepared.output, tmp_path / "run", train__steps=3, train__batch_size=4)
    assert run_ranks(pretrain, config, 1) == [0]
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3]
