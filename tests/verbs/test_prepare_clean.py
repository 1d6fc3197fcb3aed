"""`banyan prepare clean=…`: what is rejected and changed is on record, and the same whoever did it."""

from __future__ import annotations

import json
import random

import pytest
import zstandard

pytest.importorskip("numba")

from launch.compose import compose
from tests.prepared import configure, prepare, shard_files, write_jsonl
from trainer.config.clean import Clean, GopherQuality, Language, Personal
from trainer.data.clean.record import read_outcomes, read_signals
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError
from trainer.verbs.data import main as data_main
from trainer.verbs.prepare import main

WORDS = [
    "the", "of", "and", "to", "in", "that", "have", "with", "river", "harbour", "letter", "morning", "captain",
    "people", "window", "signal", "paper", "stone",
]  # fmt: skip


def prose(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count)) + "."


def texts() -> list[str]:
    draw = random.Random(3)
    found = [prose(draw, draw.randint(60, 120)) for _ in range(40)]
    found[5] = f"{found[5]} Write to someone@example.com now."
    found[9] = "too short"
    found[12] = found[3]
    words = found[7].split()
    words[10] = "x"
    found[20] = " ".join(words)
    found[33] = "short again"
    return found


def cleaning(**values) -> Clean:
    return Clean(stages=["unicode", "gopher_quality", "personal"], personal=Personal(kinds=["email"]), **values)


def rejected(output, rule: str) -> list[dict]:
    with zstandard.open(output / "rejected" / f"{rule}.jsonl.zst", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def documents(output) -> list[str]:
    manifest = read_manifest(output / "train")
    tokenizer = load_tokenizer(manifest.tokenizer_file)
    return [
        tokenizer.decode(reader.read(span.start, span.stop - 1))
        for reader, shard in zip(open_shards(manifest), manifest.shards, strict=True)
        for span in reader.documents(0, shard.tokens)
    ]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    source = write_jsonl(folder / "in.jsonl", texts())
    return prepare(source, folder / "out", clean=cleaning(signals=True), near_duplicates=True)


def test_every_document_is_accounted_for(output):
    manifest = read_manifest(output / "train")
    assert manifest.rejected == {"duplicate": 1, "gopher_quality.words": 2, "near_duplicate": 1}
    assert manifest.documents + sum(manifest.rejected.values()) == manifest.documents_read == 40
    assert manifest.prepared["changed"] == {"personal: documents masked": 1, "personal: email masked": 1}


def test_rejected_documents_are_kept_with_rule_and_value(output):
    first, second = rejected(output, "gopher_quality.words")
    assert (first["record"], first["text"], first["value"], first["limit"]) == (9, "too short", 2, 50)
    assert (second["record"], second["source"]) == (33, "in.jsonl")


def test_personal_data_is_masked_in_the_shards(output):
    found = documents(output)
    assert sum("Write to <email> now." in text for text in found) == 1
    assert not any("@" in text for text in found)


def test_outcomes_and_signals_cover_every_document(output):
    (rows,), ((names, signals),) = list(read_outcomes(output)), list(read_signals(output))
    assert rows["record"].tolist() == list(range(40))
    assert len(signals) == 40
    assert signals[9][names.index("gopher_quality.words")] == 2
    assert [row["rule"].decode() for row in rows[[9, 33, 5]]] == ["gopher_quality.words", "gopher_quality.words", ""]


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ("in.jsonl:9", "rejected by gopher_quality.words: 2, the limit is 50"),
        ("in.jsonl:5", "changed by cleaning; in.jsonl, record 5: in "),
        ("in.jsonl:0", "as it was by cleaning; in.jsonl, record 0: in "),
        ("in.jsonl:12", "the same text as in.jsonl, record 3: in "),
        ("in.jsonl:20", "nearly the same as in.jsonl, record 7, which stays; 2 such documents"),
    ],
)
def test_why_tells_what_became_of_a_document(output, capsys, wanted, answer):
    assert data_main(["why", str(output), f"id={wanted}"]) == 0
    assert answer in capsys.readouterr().out


def test_why_refuses_what_it_cannot_know(output):
    for wanted, problem in (("in.jsonl", "neither FILE:RECORD"), ("other:3", "no file of data.input has the name")):
        with pytest.raises(ConfigError, match=problem):
            data_main(["why", str(output), f"id={wanted}"])


def test_the_same_bytes_with_any_number_of_workers(output, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", texts())
    again = prepare(source, tmp_path / "out", clean=cleaning(signals=True), near_duplicates=True, workers=2)
    assert shard_files(again) == shard_files(output)


def test_without_a_shuffle_the_same_documents_stay(output, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", texts())
    again = prepare(source, tmp_path / "out", clean=cleaning(), near_duplicates=True, shuffle_documents=False)
    assert sorted(documents(again)) == sorted(documents(output))
    assert read_manifest(again / "train").rejected == read_manifest(output / "train").rejected


def test_the_sample_of_rejected_text_is_bounded(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [f"{n} short text" for n in range(100)] + texts())
    prepare(source, tmp_path / "out", clean=cleaning(rejected_bytes=200))
    kept = rejected(tmp_path / "out", "gopher_quality.words")
    assert [entry["record"] for entry in kept] == list(range(len(kept)))
    assert 100 < sum(len(entry["text"]) for entry in kept) <= 200


def test_other_values_are_other_data(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", texts())
    prepare(source, tmp_path / "out", clean=cleaning())
    with pytest.raises(ConfigError, match=r"data\.clean\.gopher_quality\.lowest_words=None then, 40 now"):
        main(configure(source, tmp_path / "out", clean=cleaning(gopher_quality=GopherQuality(lowest_words=40))))


@pytest.mark.parametrize(
    ("clean", "problem"),
    [
        (Clean(stages=["gopher"]), r"data\.clean\.stages: gopher is no stage; choose among"),
        (Clean(stages=["personal"], personal=Personal(kinds=["name"])), r"kinds: name is not known"),
        (Clean(stages=["block_list"]), r"data\.clean\.block_list\.files is empty"),
        (
            Clean(stages=["gopher_quality"], gopher_quality=GopherQuality(stop_words=[])),
            r"stop_words is empty: name the language's stop words",
        ),
        (
            Clean(stages=["language"], language=Language(keep=[])),
            r"language\.keep is empty: name the languages that stay",
        ),
        (
            Clean(stages=["language"], language=Language(keep=["english"])),
            r"keep: english isn't known; choose among af, ",
        ),
        (
            Clean(stages=["language", "gopher_quality"], language=Language(keep=["de"])),
            r"stop_words are English, and data\.clean\.language\.keep=\[de\]: name that language's",
        ),
        (
            Clean(stages=["gopher_quality"], gopher_quality=GopherQuality(highest_words=10)),
            r"gopher_quality\.lowest_words=50 is more than highest_words=10: no document would stay",
        ),
        (
            Clean(stages=["personal"], personal=Personal(regions=["XX"])),
            r"regions: XX is no region with phone numbers",
        ),
    ],
)
def test_what_cannot_be_cleaned_is_refused_before_the_first_document(tmp_path, clean, problem):
    source = write_jsonl(tmp_path / "in.jsonl", texts())
    with pytest.raises(ConfigError, match=problem):
        main(configure(source, tmp_path / "out", clean=clean))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["none", "minimal", "gopher", "c4", "fineweb", "fineweb2_zh", "code"])
def test_the_named_choices_compose(name):
    clean = compose("prepare", ["data.input=x", "data.output=y", f"clean={name}"]).data.clean
    assert ("personal" in clean.stages) == (name not in ("none", "minimal"))
    assert bool(clean.stages) == (name != "none")
