"""Examples → ids, and which of them are targets: as the model will see them when it is asked.

A chat is rendered prefix by prefix. Its targets are what lies between the ids of a prompt, with the template's opening
of an answer, and those of the chat up to the end of that answer; both must begin the ids of the whole, or serving would
feed the model other ids than it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from trainer.data.examples.faults import EQUAL_SIDES, NO_PREFIX, NO_TARGET, SPELLS_SPECIAL, TEMPLATE, ExampleFault
from trainer.data.examples.formats import from_bytes
from trainer.data.examples.messages import is_target
from trainer.data.examples.preference import SIDES
from trainer.data.examples.render_labelled import LabelRenderer
from trainer.data.examples.segments import SEGMENTS, render_segments
from trainer.data.examples.template import CHATML, NAMED, ChatTemplate
from trainer.data.tokens.modalities import CodeRange, find_ranges
from trainer.data.tokens.tokenizer import Tokenizer

SPECIAL = re.compile(r"<\|[A-Za-z0-9_]+\|>")


@dataclass(frozen=True)
class Rendered:
    """Ids (tokens,) uint32 that end in the end-of-text token, and whether each is a target, (tokens,) bool.

    Of a preference these are of the chosen side and then of the rejected; `sides` is the length of the former.
    Of a labelled text, `label` is the number of its label; of tagged words, `tags` are as LabelRenderer has them.
    """

    ids: np.ndarray
    targets: np.ndarray
    sides: int | None = None
    label: int | None = None
    tags: np.ndarray | None = None
    whole: bool = False  # all are targets, as of plain text, of which shards don't say it


@dataclass(frozen=True)
class Renderer:
    """Renders by a tokenizer, and by its chat template, or ChatML where it has none."""

    tokenizer: Tokenizer
    label_names: tuple[str, ...] = ()

    @cached_property
    def labels(self) -> LabelRenderer:
        """How labelled texts, tagged words and pairs are rendered."""
        return LabelRenderer(self.tokenizer, self.label_names)

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's template."""
        named = (*self.tokenizer.named_tokens, ("eos_token", self.tokenizer.end_of_text))
        return ChatTemplate(self.tokenizer.chat_template or NAMED[CHATML], named)

    @cached_property
    def ranges(self) -> dict[str, CodeRange]:
        """Where codes of modalities stand."""
        return find_ranges(self.tokenizer.special_ids)

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids of special tokens."""
        return frozenset(self.tokenizer.special_ids.values())

    @cached_property
    def _spelt(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.tokenizer.special_ids)))

    def spelt_special(self, text: str) -> str | None:
        """A special token that a text spells, and would become."""
        found = self._spelt.search(text)
        return found[0] if found else None

    def prompt_ids(self, messages: Sequence[Mapping[str, Any]], tools: list[Any] | None = None) -> list[int]:
        """What a model is given to answer a chat: rendered with the opening of an answer, and nothing before."""
        return self._ids(messages, tools, opening=True)

    @cached_property
    def turn_ends(self) -> list[int]:
        """The tokens at which an answer ends: the special one that the template writes after it, and end of text."""
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            rendered = self.render_chat({"messages": probe})
        except ExampleFault:
            return [self.tokenizer.end_of_text_id]
        last = int(rendered.ids[np.flatnonzero(rendered.targets)[-1]])
        return sorted({last, self.tokenizer.end_of_text_id} & self.special)

    def render(self, content: bytes) -> Rendered:
        """A stored example. ExampleFault where it can't be learnt from."""
        example = from_bytes(content)
        if SEGMENTS in example:
            ids = render_segments(self.tokenizer, self.ranges, example[SEGMENTS])
            return Rendered(np.array(ids, np.uint32), np.ones(len(ids), bool), whole=True)
        if "label" in example:
            ids, targets, label = self.labels.labelled(example)
            return Rendered(np.array(ids, np.uint32), targets, label=label)
        if "tags" in example:
            ids, targets, tags = self.labels.tagged(example)
            return Rendered(np.array(ids, np.uint32), targets, tags=tags)
        if "source" in example:
            ids, targets = self.labels.pair(example)
            return Rendered(np.array(ids, np.uint32), targets)
        if "rejected" in example:
            return self.render_preference(example)
        return self.render_chat(example) if "messages" in example else self.render_pair(example)

    def render_preference(self, example: Mapping[str, Any]) -> Rendered:
        """Both sides whole, one after the other, each with the prompt; of each its answer is a target."""
        if isinstance(example["chosen"], dict):
            sides = [self.render_chat(example[side]) for side in SIDES]
        else:
            sides = [self.render_pair({"prompt": example["prompt"], "completion": example[side]}) for side in SIDES]
        for side in sides:
            side.targets[0] = False  # nothing is before it
            if not side.targets.any():
                raise ExampleFault(NO_TARGET, "has an answer without a token to learn")
        if np.array_equal(sides[0].ids, sides[1].ids):
            raise ExampleFault(EQUAL_SIDES, "chosen and rejected have the same tokens")
        ids, targets = (
            np.concatenate(parts) for parts in zip(*((side.ids, side.targets) for side in sides), strict=True)
        )
        return Rendered(ids, targets, len(sides[0].ids))

    def render_pair(self, example: Mapping[str, str]) -> Rendered:
        """A prompt and its completion, joined as they are; special tokens that they spell stay text."""
        prompt = self.tokenizer.encode(example["prompt"])
        whole = self.tokenizer.encode(example["prompt"] + example["completion"])
        if whole[: len(prompt)] != prompt:
            raise ExampleFault(
                NO_PREFIX,
                "the prompt ends inside a token of prompt and completion together: begin the completion with the "
                "blank that ends the prompt",
            )
        ids = [*whole, self.tokenizer.end_of_text_id]
        return _rendered(ids, [(len(prompt), len(ids))])

    def render_chat(self, example: Mapping[str, Any]) -> Rendered:
        """A chat: the answers, and the special token that ends each, are targets."""
        messages, tools = example["messages"], example.get("tools")
        self._refuse_spelt(messages)
        whole = self._ids(messages, tools)
        end = self.tokenizer.end_of_text_id
        spans = [self._span(whole, messages, number, tools) for number, turn in enumerate(messages) if is_target(turn)]
        spans = [span for span in spans if span[0] < span[1]]
        if not spans:
            raise ExampleFault(NO_TARGET, "the template leaves nothing of the answers")
        last = spans[-1][1]
        ids = whole[: self._without_blanks(whole, 0, len(whole))]
        if ids[-1] != end:
            ids.append(end)
            if last == len(ids) - 1 and ids[last - 1] not in self.special:
                spans.append((last, last + 1))  # nothing else says that the answer ends
        self._refuse_two_beginnings(ids)
        return _rendered(ids, spans)

    def _span(self, whole: list[int], messages: list[Any], number: int, tools: list[Any] | None) -> tuple[int, int]:
        """First and last + 1 of an answer's ids in those of the whole chat."""
        before = self._ids(messages[:number], tools, opening=True)
        after = self._ids(messages[: number + 1], tools)
        for ids, what in ((before, "the prompt before it"), (after, "the chat up to its end")):
            if whole[: len(ids)] != ids:
                raise ExampleFault(
                    NO_PREFIX, f"message {number + 1}: the ids of {what} don't begin those of the whole chat"
                )
        return len(before), self._without_blanks(whole, len(before), len(after))

    def _without_blanks(self, ids: list[int], start: int, stop: int) -> int:
        """Where ids [start, stop) end without the white space that follows a special token: nobody waits for it."""
        end = stop
        while end > start and ids[end - 1] not in self.special and not self.tokenizer.decode([ids[end - 1]]).strip():
            end -= 1
        return end if end > start and ids[end - 1] in self.special else stop

    def _ids(
        self, messages: Sequence[Mapping[str, Any]], tools: list[Any] | None, *, opening: bool = False
    ) -> list[int]:
        text = self.template.render(messages, add_generation_prompt=opening, tools=tools)
        return self.tokenizer.encode_rendered(text)

    def _refuse_spelt(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """A text that spells a special token would become that token, and could end or begin a turn."""
        for number, turn in enumerate(messages, start=1):
            found = self._spelt.search(turn["content"])
            if found:
                raise ExampleFault(SPELLS_SPECIAL, f"message {number} spells the special token {found[0]}")

    def _refuse_two_beginnings(self, ids: list[int]) -> None:
        beginning = self.tokenizer.special_ids.get(dict(self.tokenizer.named_tokens).get("bos_token", ""))
        if beginning is not None and ids[:2] == [beginning, beginning]:
            raise ExampleFault(TEMPLATE, "the chat template writes the beginning-of-text token twice")


def _rendered(ids: list[int], spans: list[tuple[int, int]]) -> Rendered:
    targets = np.zeros(len(ids), bool)
    for start, stop in spans:
        targets[start:stop] = True
    return Rendered(np.array(ids, np.uint32), targets)


def special_tokens_of(template: str) -> list[str]:
    """The special tokens that a template writes out, such as <|im_start|>, in order."""
    return list(dict.fromkeys(SPECIAL.findall(template)))
