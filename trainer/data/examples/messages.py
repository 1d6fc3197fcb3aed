"""Chats: records as others write them → a list of messages whose turns are in order.

Three ways to write a chat are known by their fields: messages (`role`, `content`; OpenAI, TRL), ShareGPT's
`conversations` (`from`, `value`) and Alpaca's `instruction`, `input`, `output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.data.examples.faults import BAD_FIELDS, EMPTY_ANSWER, NO_TARGET, OUT_OF_TURN, ExampleFault

Message = dict[str, Any]

ASSISTANT, USER, TOOL = "assistant", "user", "tool"
INSTRUCTIONS = ("system", "developer")
SHAREGPT_ROLES = {
    **{role: role for role in (*INSTRUCTIONS, USER, ASSISTANT, TOOL)},
    "human": USER,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bing": ASSISTANT,
    "observation": TOOL,
}
FOLLOWS = {  # what may stand before a message, None being nothing but instructions
    USER: (None, ASSISTANT),
    ASSISTANT: (USER, TOOL),
    TOOL: (ASSISTANT, TOOL),
}


def chat_of(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A record as a chat: {"messages": […]}, and its `tools` where it has some. ExampleFault where it is none.

    The messages are under `field`, or a usual name. What follows the last answer isn't learnt, and is left out.
    """
    messages = _messages_of(record, field)
    check_turns(messages)
    while messages and messages[-1]["role"] != ASSISTANT:
        messages.pop()
    if not any(is_target(message) for message in messages):
        raise ExampleFault(NO_TARGET, "has no answer to learn")
    chat: dict[str, Any] = {"messages": messages}
    if isinstance(record.get("tools"), list):
        chat["tools"] = record["tools"]
    return chat


def is_target(message: Message) -> bool:
    """Whether a message is to be learnt: an answer, unless `train` is false or `weight` 0."""
    return message["role"] == ASSISTANT and message.get("train") is not False and message.get("weight") != 0


def check_turns(messages: list[Message]) -> None:
    """ExampleFault unless turns alternate: instructions first, then a user's and an answer, perhaps by way of tools."""
    before: str | None = None
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role in INSTRUCTIONS:
            if before is not None:
                raise ExampleFault(OUT_OF_TURN, f"message {number}: {role} after the chat has begun")
            continue
        if role not in FOLLOWS:
            raise ExampleFault(OUT_OF_TURN, f"message {number}: the role {role[:40]!r} isn't known")
        if before not in FOLLOWS[role]:
            raise ExampleFault(OUT_OF_TURN, f"message {number}: {role} after {before or 'nothing'}")
        if role == ASSISTANT and not message["content"].strip() and not message.get("tool_calls"):
            raise ExampleFault(EMPTY_ANSWER, f"message {number}: an empty answer")
        before = role


def _messages_of(record: Mapping[str, Any], field: str) -> list[Message]:
    for name in (field, "messages", "conversations", "conversation"):
        if isinstance(record.get(name), list):
            turns = [_message(turn, number) for number, turn in enumerate(record[name], start=1)]
            if isinstance(record.get("system"), str) and record["system"] and turns[:1] and turns[0]["role"] == USER:
                turns.insert(0, {"role": "system", "content": record["system"]})
            return turns
    if isinstance(record.get("instruction"), str) and isinstance(record.get("output"), str):
        return _from_alpaca(record)
    fields = ", ".join(repr(name[:40]) for name in list(record)[:8]) or "none"
    raise ExampleFault(BAD_FIELDS, f"no chat: it has neither messages nor instruction and output, but {fields}")


def _message(turn: Any, number: int) -> Message:
    """A message with `role` and `content`, from either way to write it; other fields stay, for the template."""
    if not isinstance(turn, dict):
        raise ExampleFault(BAD_FIELDS, f"message {number} is no object")
    if "from" in turn and "role" not in turn:
        role, content = SHAREGPT_ROLES.get(str(turn["from"]), turn["from"]), turn.get("value")
        rest = {name: value for name, value in turn.items() if name not in ("from", "value")}
    else:
        role, content = turn.get("role"), turn.get("content")
        rest = {name: value for name, value in turn.items() if name not in ("role", "content")}
    if content is None and turn.get("tool_calls"):
        content = ""
    if isinstance(content, list):
        content = _joined(content, number)
    if not isinstance(role, str) or not isinstance(content, str):
        raise ExampleFault(BAD_FIELDS, f"message {number} has no text as role and content")
    return {"role": role, "content": content, **rest}


def _joined(parts: list[Any], number: int) -> str:
    """Content in parts, of text alone."""
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise ExampleFault(BAD_FIELDS, f"message {number} has parts that aren't text")
    return "".join(part["text"] for part in parts)


def _from_alpaca(record: Mapping[str, Any]) -> list[Message]:
    """Instruction, an empty line and the input, if there is one; `history` holds earlier pairs."""
    more = record.get("input")
    asked = f"{record['instruction']}\n\n{more}" if isinstance(more, str) and more.strip() else record["instruction"]
    messages = []
    if isinstance(record.get("system"), str) and record["system"]:
        messages.append({"role": "system", "content": record["system"]})
    for pair in record.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ExampleFault(BAD_FIELDS, "history isn't a list of pairs of texts")
        messages += [{"role": USER, "content": pair[0]}, {"role": ASSISTANT, "content": pair[1]}]
    return [*messages, {"role": USER, "content": asked}, {"role": ASSISTANT, "content": record["output"]}]
