"""Moderation (serve.moderation): which prompts are refused, and where an answer is cut.

A word list is a file of one word or phrase a line; a classifier is a folder that `banyan export` wrote of
objective=classify. Answers are judged as they come: what might still become a listed word waits for what follows, and
with a classifier every stretch waits until all up to its end has been judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from trainer.config import Model
from trainer.config.guards import Guards
from trainer.data.clean.word_list import WordFinder, read_list
from trainer.data.examples.render_labelled import LabelRenderer
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import InputError, require
from trainer.evaluate.folder_model import context_of
from trainer.model.hugging_face.causal_lm import load_inner
from trainer.model.hugging_face.heads import CLASSIFY
from trainer.model.hugging_face.suitability import first_position

STRETCH = 200  # characters of an answer after which a classifier is asked again
LONGEST_WORD = 1000  # characters
# Scripts that put no blanks between words: a listed word of theirs counts wherever it stands.
UNSPACED = (
    ("\u0e00", "\u0eff"),
    ("\u1000", "\u109f"),
    ("\u1780", "\u17ff"),
    ("\u2e80", "\ud7ff"),
    ("\uf900", "\ufaff"),
)


class TextJudge(Protocol):
    """Something that objects to texts; `reason` is what to, without repeating it."""

    reason: str
    is_quick: bool  # enough to be asked in the event loop

    def judge(self, text: str, before: int, *, is_whole: bool) -> tuple[int, bool]:
        """How many characters of a text are clear, of which `before` were, and whether what follows is objected to.

        A text that isn't whole yet may be left unjudged towards its end.
        """
        ...


class WordJudge:
    """Objects to listed words, whole ones, in upper or lower case."""

    reason = "a word of a list"
    is_quick = True

    def __init__(self, file: str) -> None:
        words = [_lower(word) for word in read_list(file, "serve.moderation")]
        long = next((word for word in words if len(word) > LONGEST_WORD), None)
        if long is not None:
            raise InputError(
                f"serve.moderation: {file} has a line of {len(long):,} characters; write one word or phrase to a line."
            )
        self._longest = max(map(len, words))
        spaced, unspaced = [[w for w in words if _is_spaced(w) == kind] for kind in (True, False)]
        self._finders = [
            WordFinder(group, "serve.moderation", whole_words=whole)
            for group, whole in ((spaced, True), (unspaced, False))
            if group
        ]

    def judge(self, text: str, before: int, *, is_whole: bool) -> tuple[int, bool]:
        """Clear up to the first listed word, and for now up to where one might be unfinished."""
        first = max(0, before - self._longest - 1)  # whatever begins behind `before` is seen with the letter before it
        lower = _lower(text[first:])
        spans = [span for finder in self._finders for span in finder.spans(lower)]
        starts = [first + start for start, stop in spans if is_whole or stop < len(lower)]
        found = min((start for start in starts if start >= before), default=None)
        if found is not None:
            return found, True
        return (len(text) if is_whole else max(before, len(text) - self._longest - 1)), False


class ClassifierJudge:
    """Objects to texts to which a classifier gives the refused labels, by their probabilities' sum.

    A text that is longer than the classifier reads is judged in stretches that overlap by half: all of it is read.
    """

    is_quick = False

    def __init__(self, folder: Path, labels: Sequence[str], threshold: float) -> None:
        self._model = load_inner(Model(path=str(folder), head=CLASSIFY)).eval()
        self._renderer = LabelRenderer(load_tokenizer(folder))
        around = len(self._renderer.surround([]))
        self._most = max(1, context_of(folder) - first_position(self._model) - around)  # tokens of a stretch
        self._threshold = threshold
        names = {str(name): int(number) for number, name in self._model.config.id2label.items()}
        unknown = [label for label in labels if label not in names]
        require(
            bool(labels) and not unknown,
            f"serve.moderation_labels={list(labels)}: name labels of {folder.name} for which a text is refused; it has "
            f"{', '.join(sorted(names))}.",
        )
        self._refused = [names[label] for label in labels]
        self.reason = " or ".join(labels)

    @torch.inference_mode()
    def judge(self, text: str, before: int, *, is_whole: bool) -> tuple[int, bool]:
        """All of it or nothing new."""
        if len(text) == before or (not is_whole and len(text) - before < STRETCH):
            return before, False
        encode = self._renderer.tokenizer.encode
        ids, known = encode(text), len(encode(text[:before]))
        for end in range(len(ids), known, -max(1, self._most // 2)):
            if self._objects(ids[max(0, end - self._most) : end]):
                return before, True
            if end <= self._most:
                break
        return len(text), False

    def _objects(self, ids: list[int]) -> bool:
        rows = torch.tensor([self._renderer.surround(ids)])
        probabilities = self._model(input_ids=rows).logits[0].float().softmax(-1)
        return float(probabilities[self._refused].sum()) >= self._threshold


@dataclass
class Moderation:
    """All judges of a server. Safe to be asked from several threads."""

    judges: list[TextJudge]

    @property
    def is_quick(self) -> bool:
        """Whether all judges are quick enough to be asked in the event loop."""
        return all(judge.is_quick for judge in self.judges)

    def refusal_of(self, prompt: str) -> str | None:
        """Why a prompt isn't answered, in a line; None if it is."""
        judge = next((judge for judge in self.judges if judge.judge(prompt, 0, is_whole=True)[1]), None)
        return None if judge is None else f"the prompt is refused by this server's moderation ({judge.reason})."

    def begin(self) -> AnswerGuard:
        """What one answer goes through."""
        return AnswerGuard(self.judges)


@dataclass
class AnswerGuard:
    """Lets an answer through as far as it has been judged. `tripped`: it was cut, and nothing more comes."""

    judges: Sequence[TextJudge]
    tripped: bool = False
    _text: str = ""
    _released: int = 0
    _clear: list[int] = field(default_factory=list)  # characters, of each judge

    def feed(self, piece: str) -> str:
        """What may be shown after one more piece."""
        self._text += piece
        return self._release(is_whole=False)

    def finish(self, piece: str = "") -> str:
        """What may be shown of the rest, now that the answer has ended with this piece."""
        self._text += piece
        return self._release(is_whole=True)

    def _release(self, *, is_whole: bool) -> str:
        if self.tripped:
            return ""
        before = self._clear or [0] * len(self.judges)
        verdicts = [
            judge.judge(self._text, clear, is_whole=is_whole) for judge, clear in zip(self.judges, before, strict=True)
        ]
        self._clear = [clear for clear, _ in verdicts]
        self.tripped = any(objects for _, objects in verdicts)
        end = max(self._released, min(self._clear))
        released, self._released = self._text[self._released : end], end
        return released


def open_moderation(settings: Guards) -> Moderation | None:
    """What serve.moderation names; None if nothing. InputError or ConfigError where it can't be used."""
    judges: list[TextJudge] = []
    for name in settings.moderation:
        path = Path(name).expanduser()
        if path.is_dir():
            judges.append(ClassifierJudge(path, settings.moderation_labels, settings.moderation_threshold))
        else:
            judges.append(WordJudge(name))
    return Moderation(judges) if judges else None


def _lower(text: str) -> str:
    """In lower case, as long as before."""
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def _is_spaced(word: str) -> bool:
    return not any(low <= letter <= high for letter in word for low, high in UNSPACED)
