"""Made English sentences and their Chinese: measure words come in, and the place goes before the verb."""

from __future__ import annotations

import random

from recipes.common import answers, main, read_records, show, show_texts, split, write_records

NUMBERS = {"a": "一", "two": "两", "three": "三", "four": "四", "five": "五"}
ADJECTIVES = {"small": "小", "white": "白色的", "black": "黑色的", "old": "老", "happy": "快乐的"}
NOUNS = {"cat": "只 猫", "dog": "只 狗", "teacher": "位 老师", "child": "个 孩子", "horse": "匹 马", "bird": "只 鸟"}
PLURALS = {"child": "children"}
VERBS = {"sleep": "睡觉", "sing": "唱歌", "drink water": "喝水", "eat rice": "吃米饭", "run": "跑步", "read": "看书"}
PLACES = {"in the garden": "在花园里", "at home": "在家里", "by the river": "在河边", "at school": "在学校"}
TIMES = {"today": "今天", "every morning": "每天早上", "every evening": "每天晚上"}


def make() -> None:
    """Writes 2,000 drawn pairs; those of the 300 held out that are new are asked."""
    draw = random.Random(1)
    split([_pair(draw) for _ in range(2300)], 300)
    write_records("prompts.jsonl", ({"prompt": record["source"]} for record in read_records("test.jsonl")))


def _pair(draw: random.Random) -> dict[str, str]:
    number, adjective, noun, verb, place, time = (
        draw.choice(list(words)) for words in (NUMBERS, ADJECTIVES, NOUNS, VERBS, PLACES, TIMES)
    )
    first, *rest = verb.split()
    noun_in_english = noun if number == "a" else PLURALS.get(noun, f"{noun}s")
    verb_in_english = " ".join([f"{first}s" if number == "a" else first, *rest])
    measure, thing = NOUNS[noun].split()
    return {
        "source": f"{number} {adjective} {noun_in_english} {verb_in_english} {place} {time}",
        "target": f"{TIMES[time]}{NUMBERS[number]}{measure}{ADJECTIVES[adjective]}{thing}{PLACES[place]}{VERBS[verb]}",
    }


def by_dictionary(text: str) -> str:
    """Phrase by phrase, in the order of the English."""
    nouns = {PLURALS.get(noun, f"{noun}s"): chinese for noun, chinese in NOUNS.items()} | NOUNS
    verbs = {" ".join([f"{verb.split()[0]}s", *verb.split()[1:]]): chinese for verb, chinese in VERBS.items()} | VERBS
    words = NUMBERS | ADJECTIVES | {noun: chinese.replace(" ", "") for noun, chinese in nouns.items()} | verbs
    for phrase, chinese in sorted((words | PLACES | TIMES).items(), key=lambda entry: -len(entry[0])):
        text = f" {text} ".replace(f" {phrase} ", f" {chinese} ").strip()
    return text.replace(" ", "")


def compare() -> None:
    """BLEU of characters and chrF, by sacrebleu, and how many are right to the character."""
    from trainer.evaluate.metrics.translation import bleu, chrf

    test = read_records("test.jsonl")
    rows = {}
    for name, texts in {
        "banyan": answers(),
        "dictionary": [by_dictionary(record["source"]) for record in test],
        "copy": [record["source"] for record in test],
    }.items():
        pairs = [(text, [record["target"]]) for text, record in zip(texts, test, strict=True)]
        characters = [(" ".join(text), [" ".join(wanted)]) for text, (wanted,) in pairs]
        rows[name] = [bleu(characters), chrf(pairs), sum(text == wanted for text, (wanted,) in pairs) / len(pairs)]
    show_texts([record["source"] for record in test], answers())
    show(["BLEU (chars)", "chrF", "exact"], rows)


if __name__ == "__main__":
    main(make, compare)
