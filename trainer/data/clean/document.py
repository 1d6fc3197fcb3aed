"""A document on its way through the stages: its text, what was counted of it, what was changed in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from trainer.data.clean.characters import code_points
from trainer.data.clean.line_signals import kind_signals, line_signals
from trainer.data.clean.word_signals import WordTable, gram_signals, word_table
from trainer.data.clean.words import WordSpans, splitter


@dataclass(frozen=True)
class Verdict:
    """Why a document is rejected: `value` is what was counted, `limit` the setting that it breaks.

    `rule` is the stage and the rule, such as gopher_quality.words.
    """

    rule: str
    value: float
    limit: float
    detail: str = ""


class Counted:
    """What is counted of one text, when it is first asked for."""

    def __init__(self, text: str, words: str) -> None:
        self.text = text
        self.splitter = words

    @cached_property
    def points(self) -> np.ndarray:
        """Code points: (characters,) uint32."""
        return code_points(self.text)

    @cached_property
    def words(self) -> WordSpans:
        """Its words, by the splitter of the cleaning."""
        return splitter(self.splitter).split(self.text, self.points)

    @cached_property
    def lines(self) -> dict[str, int]:
        """Counts of characters, lines and paragraphs (line_signals.py)."""
        return line_signals(self.points)

    @cached_property
    def kinds(self) -> dict[str, int]:
        """Counts of characters by kind (line_signals.py)."""
        return kind_signals(self.points)

    @cached_property
    def word_count(self) -> int:
        """How many words it has."""
        return len(self.words)

    @cached_property
    def word_table(self) -> WordTable:
        """What its words are."""
        return word_table(self.points, self.words)

    @cached_property
    def grams(self) -> dict[str, int]:
        """Counts of runs of words (word_signals.py)."""
        return gram_signals(self.word_table)


@dataclass
class CleanedDocument:
    """A document between two stages. `signals` are the values that rules decide by, by STAGE.RULE.

    `url` is its address, where its record has one. With `every_signal` a stage notes all of its values, also after one
    that breaks a rule.
    """

    counted: Counted
    every_signal: bool = False
    url: str = ""
    signals: dict[str, float] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)

    @property
    def text(self) -> str:
        """The text as the last stage left it."""
        return self.counted.text

    def change(self, text: str, what: str, count: int = 1) -> None:
        """Replaces the text, if it is another, and counts that under `what`."""
        if text != self.counted.text:
            self.counted = Counted(text, self.counted.splitter)
            self.changes[what] += count


class Stage(Protocol):
    """A step of cleaning. One more is a file here, a section in trainer/config/clean.py, and a row in stages.py."""

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Notes the document's signals, changes it, or says why it is rejected; None if it stays."""


Bounds = tuple[float | None, float | None]  # the lowest and the highest value that stays; None is off


@dataclass(frozen=True)
class Limits:
    """The rules of a stage, as bounds of signals, in order: the first that is broken is the verdict."""

    stage: str
    bounds: Mapping[str, Bounds]  # by rule

    @cached_property
    def _named(self) -> dict[str, tuple[str, float | None, float | None]]:
        return {rule: (f"{self.stage}.{rule}", low, high) for rule, (low, high) in self.bounds.items()}

    def verdict(self, document: CleanedDocument, values: Mapping[str, float]) -> Verdict | None:
        """Notes the values as signals; the first rule that is broken, in the order of `values`, which is the rules'."""
        found = None
        for rule, value in values.items():
            name, low, high = self._named[rule]
            document.signals[name] = value
            if found is None:
                if high is not None and value > high:
                    found = Verdict(name, value, high)
                elif low is not None and value < low:
                    found = Verdict(name, value, low)
        return found
