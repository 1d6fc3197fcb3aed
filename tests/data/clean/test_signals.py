"""Compiled counts equal what plain Python counts, on texts of odd spaces, line ends and characters."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

pytest.importorskip("numba")

from tests.data.clean.documents import english_documents
from trainer.data.clean.characters import TERMINAL_MARKS, code_points
from trainer.data.clean.english.pieces import english_pieces
from trainer.data.clean.line_signals import kind_signals, line_signals
from trainer.data.clean.word_signals import gram_signals, stop_word_table, word_signals, word_table
from trainer.data.clean.words import splitter


def odd_texts(count: int) -> list[str]:
    draw = random.Random(5)
    letters = ["a", "B", "é", "中", "1", ".", "...", "…", "•", "-", "#", "{", "}", " ", "  ", "\n", "\n\n", "\r\n"]
    letters += ["\x85", "\u2028", "\x1c", "\t", "\u3000", "e\u0301", "😀", "。", "the", "and"]
    return ["".join(draw.choices(letters, k=draw.randint(0, 60))) for _ in range(count)] + english_documents(60)


def duplicates(parts: list[str]) -> tuple[int, int]:
    again = [part for number, part in enumerate(parts) if part in set(parts[:number])]
    return len(again), sum(map(len, again))


def plain_lines(text: str) -> dict[str, int]:
    paragraphs, runs = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)
    rows, lines = [row for row in text.split("\n") if row.strip()], text.splitlines()
    return {
        "characters": len(text),
        "newlines": text.count("\n"),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "paragraphs": len(paragraphs),
        "duplicate_paragraphs": duplicates(paragraphs)[0],
        "duplicate_paragraph_characters": duplicates(paragraphs)[1],
        "runs": len(runs),
        "duplicate_runs": duplicates(runs)[0],
        "duplicate_run_characters": duplicates(runs)[1],
        "lines": len(lines),
        "bullet_lines": sum(line.lstrip().startswith(("•", "-")) for line in lines),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in lines),
        "longest_line": max(map(len, lines), default=0),
        "rows": len(rows),
        "terminal_rows": sum(row[-1] in TERMINAL_MARKS for row in rows),
        "short_rows": sum(len(row) <= 30 for row in rows),
        "duplicate_row_characters": duplicates(rows)[1],
        "row_characters": sum(map(len, rows)),
    }


def test_line_counts_equal_plain_pythons():
    for text in odd_texts(1500):
        assert line_signals(code_points(text)) == plain_lines(text), ascii(text)


def test_kinds_of_characters_are_pythons():
    for text in odd_texts(300):
        kinds = kind_signals(code_points(text))
        assert kinds["spaces"] == sum(map(str.isspace, text))
        assert kinds["alphabetic"] == sum(map(str.isalpha, text))
        assert kinds["alphanumeric"] == sum(map(str.isalnum, text))
        assert kinds["digits"] == sum(map(str.isdigit, text))
        assert kinds["uppercase"] == sum(map(str.isupper, text))
        assert kinds["han"] == len(re.findall("[\u4e00-\u9fff]", text))


def test_runs_of_words_equal_plain_pythons():
    spaces = splitter("spaces")
    for text in odd_texts(400):
        points = code_points(text)
        words = spaces.split(text, points)
        assert words.texts(text) == text.split()
        found = gram_signals(word_table(points, words))
        for size in (2, 3, 4):
            assert found[f"top_{size}_gram_characters"] == top(text.split(), size), ascii(text)
        for size in range(5, 11):
            assert found[f"repeated_{size}_gram_characters"] == repeated(text.split(), size), ascii(text)


def top(words: list[str], size: int) -> int:
    grams = Counter(" ".join(words[first : first + size]) for first in range(len(words) - size + 1))
    return len(grams.most_common(1)[0][0]) * grams.most_common(1)[0][1] if grams else 0


def repeated(words: list[str], size: int) -> int:
    seen, characters, first = set(), 0, 0
    while first < len(words) - size + 1:
        gram = "".join(words[first : first + size])
        characters += len(gram) if gram in seen else 0
        first += size if gram in seen else 1
        seen.add(gram)
    return characters


def test_stop_words_are_counted_once_each():
    text = "the cat and the dog and The"
    words = splitter("spaces").split(text, code_points(text))
    assert word_signals(word_table(code_points(text), words), stop_word_table(("the", "and", "of")))["stop_words"] == 2


def test_compiled_words_equal_the_rules_whatever_was_seen_before():
    draw, english, pieces = random.Random(7), splitter("english"), english_pieces()
    letters = "aabccomsSmkKTAB019...:/?,;'’\"()-–—~+*^=<>_!#%&@{}[]|\\`“”xX$é"
    chunks = ["".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(20_000)]
    chunks += [draw.choice(list(pieces.exceptions)) + draw.choice(letters) for _ in range(3000)]
    chunks += ["x" * 100, "http://" + "a" * 80 + ".com", "-" * 90, "a" * 70 + ".b"]
    text = " ".join(chunks)
    for _ in range(2):
        found = english.split(text, code_points(text)).texts(text)
        assert found == [word for chunk in chunks for word in pieces.split(chunk)]
