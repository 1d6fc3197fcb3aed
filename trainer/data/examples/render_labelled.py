"""Labelled texts, tagged words and pairs of a source and a target → ids, as Hugging Face's pipelines will make them.

A text has what the tokenizer puts around one, such as [CLS] and [SEP]: it is what a model of its kind was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from trainer.data.examples.faults import BAD_FIELDS, EMPTY_TEXT, ExampleFault
from trainer.data.tokens.tokenizer import Tokenizer

FIRST_CJK = 0x2E80


@dataclass(frozen=True)
class LabelRenderer:
    """Renders by a tokenizer; `labels` are all that there are, in the order of their numbers."""

    tokenizer: Tokenizer
    labels: tuple[str, ...] = ()

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before a text and after it."""
        plain = self.tokenizer.encode("a")
        whole = list(self.tokenizer.engine.encode("a", add_special_tokens=True).ids)
        for first in range(len(whole) - len(plain) + 1):
            if whole[first : first + len(plain)] == plain:
                return whole[:first], whole[first + len(plain) :]
        return [], []

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}

    def text_ids(self, text: str) -> list[int]:
        """What a model is given of a text."""
        return self.surround(self.tokenizer.encode(text))

    def surround(self, ids: list[int]) -> list[int]:
        """What a model is given of a text's ids."""
        before, after = self._around
        return [*before, *ids, *after]

    def source_ids(self, text: str) -> list[int]:
        """What an encoder is given of a source: it ends in the end-of-text token, whoever puts it there."""
        ids, end = self.text_ids(text), self.tokenizer.end_of_text_id
        return ids if ids[-1:] == [end] else [*ids, end]

    def labelled(self, example: Mapping[str, Any]) -> tuple[list[int], np.ndarray, int]:
        """Ids that end in an end-of-text token of the shard's own, targets, and the label's number."""
        ids = self.text_ids(example["text"])
        if not self.tokenizer.encode(example["text"]):
            raise ExampleFault(EMPTY_TEXT, "a text of which the tokenizer leaves nothing")
        targets = np.zeros(len(ids) + 1, bool)
        targets[-1] = True
        return [*ids, self.tokenizer.end_of_text_id], targets, self._numbers[example["label"]]

    def tagged(self, example: Mapping[str, Any]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Ids likewise, targets, and one more than the tag's number of the token before each, 0 for none.

        A word's tag is that of its first token. Words are joined by blanks, but where both are of a script without.
        """
        before, after = self._around
        ids, tags = list(before), [0] * len(before)
        last = ""
        for place, (word, tag) in enumerate(zip(example["words"], example["tags"], strict=True), start=1):
            pieces = self.tokenizer.encode(word if not last or _joined(last, word) else f" {word}")
            if not pieces:
                raise ExampleFault(BAD_FIELDS, f"token {place}, {word[:40]!r}, of which the tokenizer leaves nothing")
            ids += pieces
            tags += [self._numbers[tag] + 1, *[0] * (len(pieces) - 1)]
            last = word
        shifted = np.array([0, *tags, *[0] * len(after)], np.uint16)
        return [*ids, *after, self.tokenizer.end_of_text_id], shifted > 0, shifted

    def pair(self, example: Mapping[str, str]) -> tuple[list[int], np.ndarray]:
        """A source and its target, each as the tokenizer writes a text, ending in the end-of-text token."""
        source, target = self.source_ids(example["source"]), self.source_ids(example["target"])
        targets = np.zeros(len(source) + len(target), bool)
        targets[len(source) :] = True
        return [*source, *target], targets


def _joined(before: str, word: str) -> bool:
    """Whether no blank stands between two words."""
    return ord(before[-1]) >= FIRST_CJK and ord(word[0]) >= FIRST_CJK
