"""Other thresholds over the values that cleaning counted: told by a table, and prepared without counting again."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba")

from tests.data.clean.documents import english_documents
from tests.prepared import configure, prepare, shard_files, write_jsonl
from trainer.config.clean import C4, Clean, FinewebQuality, GopherQuality, Personal
from trainer.data.clean import reuse
from trainer.data.clean.record import read_outcomes, read_signals
from trainer.data.clean.stages import tables_of
from trainer.data.clean.thresholds import decide
from trainer.data.tokens.manifest import read_manifest
from trainer.errors import ConfigError, InputError
from trainer.verbs.data import main as data_main
from trainer.verbs.prepare import main

CLEAN = Clean(
    stages=["unicode", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality", "personal"],
    gopher_quality=GopherQuality(lowest_words=20, lowest_alphabetic_words=0.5),
    fineweb_quality=FinewebQuality(highest_duplicate_characters=None),
    personal=Personal(kinds=["email"]),
    signals=True,
)
OTHER = replace(
    CLEAN,
    gopher_quality=GopherQuality(lowest_words=40, lowest_alphabetic_words=0.5, highest_word_length=None),
    c4=C4(lowest_sentences=2, curly_brackets=False),
)
TYPED = [
    "data.clean.gopher_quality.lowest_words=40",
    "data.clean.gopher_quality.highest_word_length=null",
    "data.clean.c4.lowest_sentences=2",
    "data.clean.c4.curly_brackets=false",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("in") / "in.jsonl", english_documents(300, seed=6))


@pytest.fixture(scope="module")
def counted(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("counted") / "out", clean=CLEAN)


@pytest.fixture(scope="module")
def anew(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("anew") / "out", clean=replace(OTHER, signals=False))


def rules(output) -> list[str]:
    return [rule.decode() for rows in read_outcomes(output) for rule in rows["rule"].tolist()]


def table(capsys, *arguments: str) -> dict[str, list[int]]:
    """The printed table: by rule documents and characters then, and now."""
    assert data_main(["thresholds", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()[1:-1]
    return {line.split()[0]: [int(each.replace(",", "")) for each in line.split()[1:]] for line in lines}


def test_the_same_thresholds_decide_what_was_decided(counted):
    (rows,), ((names, signals),) = list(read_outcomes(counted)), list(read_signals(counted))
    decided = decide(tables_of(CLEAN), names, signals)
    for number, row in enumerate(rows):
        verdict = decided.verdict(number)
        assert row["rule"].decode() == ("" if verdict is None else verdict.rule)
        assert verdict is None or (row["value"], row["limit"]) == (verdict.value, verdict.limit)
    assert len(set(rows["rule"].tolist())) > 8


def test_the_table_says_what_prepare_would_reject(counted, anew, capsys):
    found = table(capsys, str(counted), *TYPED)
    then, now = rules(counted), rules(anew)
    assert then != now
    for rule in {*then, *now}:
        assert found[rule or "stay"][::2] == [then.count(rule), now.count(rule)]
    assert found["read"][0] == len(then)
    for column in (1, 3):
        assert found["read"][column] == sum(counts[column] for rule, counts in found.items() if rule != "read")


def test_prepared_from_stored_values_the_shards_are_the_same_and_nothing_is_counted(
    source, counted, anew, tmp_path, monkeypatch
):
    from trainer.data.clean import cleaner

    stages = []
    build = cleaner.build_stages
    monkeypatch.setattr(
        cleaner, "build_stages", lambda *given, **named: stages.extend(build(*given, **named)) or stages
    )
    again = prepare(source, tmp_path / "out", clean=replace(OTHER, signals_from=str(counted)))
    assert {type(stage).__name__ for stage in stages} == {"UnicodeStage", "C4Stage", "PersonalStage"}
    assert read_manifest(again / "train").rejected == read_manifest(anew / "train").rejected
    assert rules(again) == rules(anew)
    shards = {name: content for name, content in shard_files(anew).items() if name.startswith("train")}
    assert {name: content for name, content in shard_files(again).items() if name.startswith("train")} == shards
    ((names, signals),), ((same_names, same),) = list(read_signals(counted)), list(read_signals(again))
    assert names == same_names
    assert np.array_equal(signals, same, equal_nan=True)


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("data.clean.gopher_quality.lowest_words=many", r"lowest_words=many: must be an integer or null\."),
        ("data.clean.gopher_quality.lowest_words=-1", r"lowest_words=-1: must be at least 0"),
        ("data.clean.c4.curly_brackets=3", r"must be true or false\."),
        ("data.clean.gopher_quality.stop_words=[a]", r"stop_words: no threshold; of the stages here there are"),
        ("data.clean.code.generated=true", r"the stage isn't among those by which it was prepared, unicode, "),
        ("clean=gopher", r"clean: no threshold"),
    ],
)
def test_what_is_no_threshold_is_refused(counted, typed, problem):
    with pytest.raises(ConfigError, match=problem):
        data_main(["thresholds", str(counted), typed])


def test_an_output_without_values_is_refused(anew, tmp_path):
    with pytest.raises(InputError, match=r"prepare it with data\.clean\.signals=true"):
        data_main(["thresholds", str(anew)])
    with pytest.raises(InputError, match=r"no finished output of prepare"):
        data_main(["thresholds", str(tmp_path)])


def test_values_of_other_inputs_or_settings_are_refused_before_the_first_document(source, counted, anew, tmp_path):
    other = write_jsonl(tmp_path / "in.jsonl", english_documents(20, seed=7))
    for given, clean, problem in (
        (other, replace(CLEAN, signals_from=str(counted)), r"prepared from other files"),
        (source, replace(CLEAN, signals_from=str(anew)), r"prepared without data\.clean\.signals=true"),
        (
            source,
            replace(CLEAN, words="spaces", signals_from=str(counted)),
            r"only thresholds may differ \(data\.clean\.words",
        ),
        (source, replace(CLEAN, stages=["unicode"], signals_from=str(counted)), r"\(data\.clean\.stages="),
    ):
        with pytest.raises(ConfigError, match=problem):
            main(configure(given, tmp_path / "out", clean=clean))
    assert not (tmp_path / "out").exists()


def test_documents_that_were_not_counted_are_noticed(counted):
    before = reuse.CountedBefore(replace(CLEAN, signals_from=str(counted)), 0)
    with pytest.raises(InputError, match=re.escape("it counted other documents (work item 0)")):
        before.verdict(0, 1)
    with pytest.raises(InputError, match="it counted other documents"):
        reuse.CountedBefore(replace(CLEAN, signals_from=str(counted)), 0).end()


def test_a_stage_that_rejects_stands_once(source, tmp_path):
    clean = replace(CLEAN, stages=["c4", "unicode", "c4"])
    with pytest.raises(ConfigError, match=r"data\.clean\.stages names c4 twice"):
        main(configure(source, tmp_path / "out", clean=clean))


def test_a_damaged_plan_is_refused_in_one_line(counted, tmp_path):
    for settings in (
        {"data.clean.stages": 3},
        {"data.clean.stages": ["c4"], "data.clean.c4": 4},
        {"data.clean.x.y": 1},
    ):
        (tmp_path / "plan.json").write_text(json.dumps({"finished": True, "settings": settings, "inputs": []}))
        with pytest.raises(InputError, match=r"settings of data\.clean can't be read"):
            data_main(["thresholds", str(tmp_path)])
