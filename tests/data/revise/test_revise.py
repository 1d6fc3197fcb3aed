"""Repeated paragraphs and copies: the first stays, whoever sorts; exactly as many copies as the table says."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import zstandard

pytest.importorskip("numba")

from tests.killed import PROGRAM, kill_after_files, start
from tests.planted import made_texts, write_corpus
from tests.prepared import configure, prepare, shard_files, write_jsonl
from tests.verbs.test_prepare_clean import documents, rejected
from trainer.config.near import Near
from trainer.config.paragraphs import LINES, Paragraphs
from trainer.data.revise.paragraphs import digest_of, paragraphs_of, without
from trainer.data.revise.record import read_revision_record
from trainer.data.revise.repeated import FindRepeated
from trainer.data.revise.survey import Wanted
from trainer.data.text import collect, split
from trainer.data.text.near_dropped import read_near_record
from trainer.data.tokens.manifest import read_manifest
from trainer.errors import ConfigError, InputError
from trainer.report.data_card.card import ClusterSize
from trainer.report.data_card.gather import gather_card
from trainer.report.data_card.markdown import card_as_markdown
from trainer.report.data_card.page import card_as_html
from trainer.verbs.prepare import main

FINEWEB_2 = {1: 1, 2: 2, 3: 3, 5: 5, 100: 8, 1000: 1}
WORDS = [f"{first}{second}" for first in ("stone", "river", "light", "paper") for second in range(100)]
NOTICE = "All rights reserved; no part of this page may be copied without our leave."


def prose(draw: random.Random, words: int = 40) -> str:
    return " ".join(draw.choices(WORDS, k=words))


def counted(output) -> Counter[str]:
    return Counter(documents(output))


def test_paragraphs_are_equal_but_for_case_and_white_space():
    text = "One  two\n\n \t\nthree\nfour\n\n\nONE\ttwo"
    first, second, third = paragraphs_of(text, Paragraphs(lowest_bytes=1))
    assert [text[each.start : each.stop] for each in (first, second, third)] == ["One  two", "three\nfour", "ONE\ttwo"]
    assert digest_of(text, first) == digest_of(text, third) != digest_of(text, second)
    lines = paragraphs_of("ab\n中文\n-----------", Paragraphs(LINES, lowest_bytes=6))
    assert [each.is_compared for each in lines] == [False, True, False]


@pytest.mark.parametrize(
    ("taken", "left"),
    [(set(), "\n\na\n\n\nb\n\nc\n"), ({1}, "\n\n\nb\n\nc\n"), ({2}, "\n\na\n\nc\n"), ({3}, "\n\na\n\n\nb")],
)
def test_a_paragraph_goes_with_what_stands_before_the_next(taken, left):
    text = "\n\na\n\n\nb\n\nc\n"
    assert without(text, paragraphs_of(text, Paragraphs(lowest_bytes=1)), taken) == left


def test_copies_follow_fineweb_2s_table():
    wanted = Wanted(None, FINEWEB_2, 0.0)
    sizes = np.array([1, 2, 3, 4, 5, 99, 100, 999, 1000, 10**6])
    assert wanted.copies_for(sizes).tolist() == [1, 2, 3, 3, 5, 5, 8, 8, 1, 1]
    assert Wanted(None, {10: 3}, 0.0).copies_for(sizes).tolist() == [1, 1, 1, 1, 1, 3, 3, 3, 3, 3]


def test_hashes_are_sorted_in_ranges_that_fit_into_memory():
    assert FindRepeated.ranges_for(10**9, 2**30) == 150
    assert FindRepeated.ranges_for(0, 2**30) == 1


@pytest.fixture
def corpus(tmp_path):
    """Three files of 30 texts with a notice in every third one, some that are nothing else, copies and near copies."""
    draw, files = random.Random(7), []
    long = prose(draw, 80)
    for number in range(3):
        texts = [f"{prose(draw)}\n\n{NOTICE if place % 3 == 0 else prose(draw)}" for place in range(30)]
        texts[7] = NOTICE.upper()
        texts[11] = f"{long} {'again ' * number}".strip()
        texts[13] = texts[14]
        files.append(write_jsonl(tmp_path / f"{'cab'[number]}.jsonl", texts))
    return files


def settings(**more):
    return {"near_duplicates": True, "rehydrate": FINEWEB_2, "repeated_paragraphs": True, **more}


def test_every_document_and_copy_is_counted(corpus, tmp_path):
    output = prepare(corpus, tmp_path / "out", **settings())
    manifest, found = read_manifest(output / "train"), counted(output)
    assert manifest.rejected == {"duplicate": 5, "near_duplicate": 2, "repeated_paragraphs.document": 1}
    assert manifest.prepared["changed"] == {
        "rehydrate: copies added": 5,
        "repeated_paragraphs: documents shortened": 29,
        "repeated_paragraphs: paragraphs taken out": 29,
    }
    assert manifest.documents - 5 + 8 == manifest.documents_read == 90
    assert manifest.documents == found.total()
    assert sum(NOTICE in text for text in found) == 1
    assert sorted(found.values())[-4:] == [2, 2, 2, 3]  # three copies, and a cluster of near ones


def test_the_card_tells_of_copies_and_of_what_was_taken_out(corpus, tmp_path):
    card = gather_card(prepare(corpus, tmp_path / "out", **settings()), say=print)
    assert [(stage.name, stage.left) for stage in card.funnel][-2:] == [
        ("near-duplicates", 83),
        ("repeated_paragraphs", 82),
    ]
    assert (card.copies_added, card.distinct, card.documents) == (5, 82, 87)
    assert card.clusters == (ClusterSize(3, 1, 3),)
    assert "copies by the size of clusters" in card_as_html(card)
    assert "| 3 | 1 | 3 |" in card_as_markdown(card)


def test_the_record_says_what_was_taken_out_of_which_document(corpus, tmp_path, capsys):
    output = prepare(corpus, tmp_path / "out", **settings())
    taken = read_revision_record(output)
    assert len(taken) == 30
    assert set(zip(taken["first_source"].tolist(), taken["first_record"].tolist(), strict=True)) == {(0, 0)}
    (whole,) = rejected(output, "repeated_paragraphs.document")
    assert (whole["source"], whole["record"], whole["text"]) == ("c.jsonl", 7, NOTICE.upper())
    parts = rejected(output, "repeated_paragraphs.paragraph")
    assert {part["text"] for part in parts} == {NOTICE}
    assert len(parts) == 29


@pytest.mark.parametrize("shuffled", [pytest.param(True, marks=pytest.mark.full), False])
def test_the_same_bytes_with_any_workers_and_any_memory(corpus, tmp_path, monkeypatch, shuffled):
    monkeypatch.setattr(collect, "LEAST_ITEM_BYTES", 5000)
    monkeypatch.setattr(split, "BUCKET_BYTES", 9000)
    monkeypatch.setattr(split, "FILE_BYTES", 20_000)
    one = prepare(corpus, tmp_path / "one", **settings(shuffle_documents=shuffled))
    monkeypatch.setattr("trainer.data.revise.repeated.PARAGRAPH_COST", 2**14)  # so that there are several ranges
    small = settings(near=Near(memory_bytes=2**20), paragraphs=Paragraphs(memory_bytes=2**20))
    two = prepare(corpus, tmp_path / "two", workers=2, shuffle_documents=shuffled, **small)
    assert shard_files(one) == shard_files(two)


def test_the_order_of_the_sources_decides_which_paragraph_stays(corpus, tmp_path):
    one = prepare(corpus, tmp_path / "one", repeated_paragraphs=True)
    two = prepare(corpus[::-1], tmp_path / "two", repeated_paragraphs=True)
    assert set(read_revision_record(two)["first_source"].tolist()) == {0}
    assert counted(one) != counted(two)
    assert counted(one) == counted(
        prepare(corpus, tmp_path / "three", repeated_paragraphs=True, shuffle_documents=False)
    )


def test_held_out_documents_stand_once(tmp_path):
    draw = random.Random(3)
    texts = [prose(draw) for _ in range(40)]
    source = write_jsonl(tmp_path / "in.jsonl", texts * 3)
    output = prepare(source, tmp_path / "out", near_duplicates=True, rehydrate=FINEWEB_2, validation_fraction=0.3)
    train, validation = (read_manifest(output / name) for name in ("train", "validation"))
    assert validation.documents + train.documents // 3 == 40
    assert train.documents % 3 == 0
    assert train.documents_read == 120


def test_copies_come_of_all_documents_of_a_cluster_exact_ones_too(tmp_path):
    draw = random.Random(5)
    long = prose(draw, 80)
    source = write_jsonl(
        tmp_path / "in.jsonl", [long, f"{long} more", long, f"{long} more", f"{long} more", prose(draw)]
    )
    output = prepare(source, tmp_path / "out", near_duplicates=True, rehydrate={5: 4})
    assert sorted(counted(output).values()) == [1, 4]
    assert set(read_near_record(output)["size"].tolist()) == {5}


def test_a_second_run_finds_it_up_to_date_and_other_copies_are_other_data(corpus, tmp_path, capsys):
    prepare(corpus, tmp_path / "out", **settings())
    prepare(corpus, tmp_path / "out", **settings())
    assert "up to date" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"data\.rehydrate"):
        main(configure(corpus, tmp_path / "out", **settings(rehydrate={2: 3})))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"repeated_paragraphs": True, "deduplicate": False},
            r"data\.repeated_paragraphs=true needs data\.deduplicate",
        ),
        ({"rehydrate": {2: 2}}, r"data\.rehydrate needs data\.near_duplicates=true"),
        ({"rehydrate": {2: 0}, "near_duplicates": True}, r"data\.rehydrate=\{2:0\}: sizes are 1 or more, copies 1 to"),
        (
            {"repeated_paragraphs": True, "paragraphs": Paragraphs("words")},
            r"data\.paragraphs\.between=words: not known",
        ),
    ],
)
def test_what_cannot_be_revised_is_refused_before_the_first_document(corpus, tmp_path, given, problem):
    with pytest.raises(ConfigError, match=problem):
        main(configure(corpus, tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_is_refused(corpus, tmp_path):
    output = prepare(corpus, tmp_path / "out", repeated_paragraphs=True)
    (output / "paragraphs" / "taken.zst").write_bytes(zstandard.compress(b"short"))
    with pytest.raises(InputError, match="can't be read"):
        read_revision_record(output)


@pytest.mark.full
def test_elements_of_a_job_array_of_which_one_is_killed_write_the_same(tmp_path):
    settings = "near_duplicates=True, rehydrate={2: 2}, repeated_paragraphs=True"
    program, corpus = tmp_path / "run.py", write_corpus(tmp_path / "in", made_texts(60))
    program.write_text(PROGRAM.replace("validation_fraction=0.1", f"validation_fraction=0.1, {settings}"))
    inputs, shared = [str(path) for path in corpus.inputs()], tmp_path / "shared"
    with start(program, inputs, tmp_path / "calm", workers=1) as calm:
        assert calm.communicate()[0].endswith("\n0\n")
    first, victim, third = (start(program, inputs, shared, workers=1, element=number) for number in (1, 2, 3))
    assert kill_after_files(victim, shared, 30)
    victim.communicate()
    for element in (first, third, start(program, inputs, shared, workers=1, element=2)):
        assert element.communicate()[0].endswith("\n0\n")
    assert shard_files(shared) == shard_files(tmp_path / "calm")
