"""data.format: what a record must be, and the bytes that stand for it until it is rendered.

Those bytes are JSON in one way of writing, so that equal examples are duplicates and fall into the same split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.config.modalities import TEXT
from trainer.data.examples.faults import BAD_FIELDS, EMPTY_ANSWER, ExampleFault
from trainer.data.examples.labelled import labelled_of, seq2seq_of, tagged_of
from trainer.data.examples.messages import ASSISTANT, chat_of
from trainer.data.examples.preference import preference_of
from trainer.data.examples.segments import SEGMENTS

CHAT, PROMPT_COMPLETION, PREFERENCE = "chat", "prompt_completion", "preference"
LABELLED, TAGGED, SEQ2SEQ = "labelled", "tagged", "seq2seq"


def prompt_completion_of(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A record as a prompt and its completion, texts; or as a chat, of which the completion's answers are targets."""
    prompt, completion = record.get("prompt"), record.get("completion", record.get("response"))
    if isinstance(prompt, list) and isinstance(completion, list):
        asked = [turn | {"train": False} if _is_answer(turn) else turn for turn in prompt]
        return chat_of({"messages": [*asked, *completion]}, "messages")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        fields = ", ".join(repr(name[:40]) for name in list(record)[:8]) or "none"
        raise ExampleFault(BAD_FIELDS, f"no texts in prompt and completion, but the fields {fields}")
    if not completion.strip():
        raise ExampleFault(EMPTY_ANSWER, "an empty completion")
    return {"prompt": prompt, "completion": completion}


def _is_answer(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") == ASSISTANT


TEXTS = ("prompt", "completion", "text", "source", "target")  # fields of stored examples
READERS: dict[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
    CHAT: chat_of,
    PROMPT_COMPLETION: prompt_completion_of,
    PREFERENCE: preference_of,
    LABELLED: labelled_of,
    TAGGED: tagged_of,
    SEQ2SEQ: seq2seq_of,
}


def to_bytes(example: Mapping[str, Any]) -> bytes:
    """An example as it is stored. ExampleFault where it holds half a surrogate pair, which is no text."""
    try:
        return json.dumps(example, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ExampleFault(BAD_FIELDS, "half a surrogate pair") from error


def from_bytes(content: bytes) -> dict[str, Any]:
    """`to_bytes`' inverse."""
    example: dict[str, Any] = json.loads(content)
    return example


def texts_in(content: bytes) -> Iterator[bytes]:
    """The texts of a stored example, on which a tokenizer is trained and tried."""
    example = from_bytes(content)
    if "words" in example:
        yield " ".join(example["words"]).encode()
        return
    if SEGMENTS in example:
        yield from (value.encode() for name, value in example[SEGMENTS] if name == TEXT)
        return
    for part in (example, *(side for side in (example.get("chosen"), example.get("rejected")) if side is not None)):
        if isinstance(part, str):
            yield part.encode()
            continue
        yield from (turn["content"].encode() for turn in part.get("messages", ()))
        yield from (part[name].encode() for name in TEXTS if name in part)


def holds_chats(content: bytes) -> bool:
    """Whether a stored example is one that a chat template renders."""
    example = from_bytes(content)
    return "messages" in example or isinstance(example.get("chosen"), dict)
