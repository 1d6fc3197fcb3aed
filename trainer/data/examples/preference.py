"""data.format=preference: a prompt, the answer to it that was chosen, and one that was rejected."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from trainer.data.examples.faults import BAD_FIELDS, EMPTY_ANSWER, EQUAL_SIDES, ExampleFault
from trainer.data.examples.messages import ASSISTANT, USER, chat_of

SIDES = ("chosen", "rejected")


def preference_of(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A record as texts {"prompt", "chosen", "rejected"}, or as two chats of which the last answers are targets.

    Answers are texts, joined to a prompt that is one; or lists of messages after a prompt of messages or of a user's
    text, or that begin with it. ExampleFault where it is no pair, or both sides are equal.
    """
    prompt, sides = record.get("prompt"), [record.get(side) for side in SIDES]
    if isinstance(prompt, str) and all(isinstance(side, str) for side in sides):
        if not all(str(side).strip() for side in sides):
            raise ExampleFault(EMPTY_ANSWER, "an empty answer")
        pair: dict[str, Any] = {"prompt": prompt, **dict(zip(SIDES, sides, strict=True))}
    elif all(isinstance(side, list) and side for side in sides) and isinstance(prompt, list | str | None):
        begin, answers = _split(prompt, sides)
        more = {name: record[name] for name in ("tools", "system") if name in record}
        pair = {
            side: chat_of({**more, "messages": [*begin, *answer]}, "messages")
            for side, answer in zip(SIDES, answers, strict=True)
        }
    else:
        fields = ", ".join(repr(name[:40]) for name in list(record)[:8]) or "none"
        raise ExampleFault(
            BAD_FIELDS, f"prompt, chosen and rejected aren't all texts or all messages, in the fields {fields}"
        )
    if pair["chosen"] == pair["rejected"]:
        raise ExampleFault(EQUAL_SIDES, "chosen and rejected are the same")
    return pair


def _split(prompt: Any, sides: list[Any]) -> tuple[list[Any], list[list[Any]]]:
    """The messages of the prompt, whose answers aren't targets, and the answers of each side."""
    if isinstance(prompt, str):
        prompt = [{"role": USER, "content": prompt}]
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(*sides, strict=False))))
    if not prompt or sides[0][: len(prompt)] == prompt or shared:  # each side has the whole conversation
        prompt, sides = sides[0][:shared], [side[shared:] for side in sides]
        if not all(sides):
            raise ExampleFault(EQUAL_SIDES, "chosen and rejected are the same, or one is the beginning of the other")
    return [_as_context(turn) for turn in prompt], sides


def _as_context(turn: Any) -> Any:
    """A message of the prompt: an answer in it isn't learnt."""
    is_answer = isinstance(turn, dict) and turn.get("role", turn.get("from")) in (ASSISTANT, "gpt")
    return turn | {"train": False} if is_answer else turn
