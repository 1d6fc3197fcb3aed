"""What a record of annotated data must hold, by kind. A record → what was labelled, and the labels it was given.

classification  text, label
tags            tokens, tags: one for each token
dialogues       messages: role and content of each; perhaps a label of the whole
preferences     prompt (or none), chosen, rejected: texts or lists of messages

Each may have `id` and `annotator`. In place of label or tags, `annotations` may hold those of several annotators.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.data.labels.entities import OUTSIDE
from trainer.machine.json_file import SHOWN, Malformed

FIELDS = {
    "classification": ("text", "label"),
    "tags": ("tokens", "tags"),
    "dialogues": ("messages", "label"),
    "preferences": ("prompt", "chosen", "rejected"),
}
KINDS = tuple(FIELDS)
ID, ANNOTATOR, ANNOTATIONS = "id", "annotator", "annotations"
NAMES = tuple(dict.fromkeys([*(name for names in FIELDS.values() for name in names), ID, ANNOTATOR, ANNOTATIONS]))
SCHEMES = ("any", "bio")
ROLES = ("system", "user", "assistant", "tool")
SORTED_FIRST, SORTED_SECOND = "first", "second"  # labels of preferences: which response, sorted as texts, was chosen


@dataclass(frozen=True)
class Schema:
    """The kind of records, what may stand in them, and under which names: `names` maps our fields to the file's.

    With the scheme `bio`, `labels` are the types of entities, else the labels or tags themselves; None allows all.
    """

    kind: str
    labels: tuple[str, ...] | None = None
    scheme: str = "any"
    roles: tuple[str, ...] = ROLES
    names: Mapping[str, str] = field(default_factory=dict)

    def name(self, ours: str) -> str:
        """What the file calls one of our fields."""
        return self.names.get(ours, ours)


@dataclass(frozen=True)
class Annotation:
    """What one annotator said of one item: one label, or one for each token. `content` tells items apart."""

    item: str
    annotator: str | None
    labels: tuple[str, ...]
    content: str


def quoted(value: Any) -> str:
    """A value of a record in a line, in its own script."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


class WrongField(Exception):
    """A field of a record that isn't as the schema says."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(what)
        self.name = name


def find_kind(record: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    """The kind that a record's fields are of."""
    for kind, needed in (("preferences", "chosen"), ("dialogues", "messages"), ("tags", "tokens")):
        if names.get(needed, needed) in record:
            return kind
    return "classification" if names.get("text", "text") in record else None


def annotations_of(record: Mapping[str, Any], schema: Schema) -> Iterator[Annotation]:
    """The annotations in a record. WrongField where it isn't as the schema says."""
    content = _CONTENTS[schema.kind](record, schema)
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    item = _identity(record, schema)
    annotator = _annotator(record, schema)
    several = schema.name(ANNOTATIONS)
    if several not in record or schema.kind == "preferences":
        yield Annotation(item or text, annotator, _labels_of(record, schema, content), text)
        return
    given = record[several]
    if not isinstance(given, dict) or not given:
        raise WrongField(several, f"{quoted(given)} where an object of annotators and their labels belongs")
    for who, value in given.items():
        if value is not None:  # who wasn't asked, or skipped it
            yield Annotation(item or text, who, _checked_labels(value, schema, content, f"{several}.{who}"), text)


def _identity(record: Mapping[str, Any], schema: Schema) -> str | None:
    name = schema.name(ID)
    value = record.get(name)
    if value is None or (isinstance(value, str) and value) or type(value) is int:
        return None if value is None else str(value)
    raise WrongField(name, f"{quoted(value)} is neither a text nor a whole number")


def _annotator(record: Mapping[str, Any], schema: Schema) -> str | None:
    name = schema.name(ANNOTATOR)
    value = record.get(name)
    if value is None or (isinstance(value, str) and value) or type(value) is int:
        return None if value is None else str(value)
    raise WrongField(name, f"{quoted(value)} is no name of an annotator")


# --------------------------------------------------------------------------------------------------------- contents


def _needed(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise WrongField(name, "is missing")
    return record[name]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise WrongField(name, f"{quoted(value)} where a text belongs")
    return value


def _classified(record: Mapping[str, Any], schema: Schema) -> Any:
    name = schema.name("text")
    return _text(_needed(record, name), name)


def _tokens(record: Mapping[str, Any], schema: Schema) -> Any:
    name = schema.name("tokens")
    tokens = _needed(record, name)
    if not isinstance(tokens, list) or not tokens:
        raise WrongField(name, f"{quoted(tokens)} where a list of tokens belongs")
    for place, token in enumerate(tokens):
        if not isinstance(token, str) or not token:
            raise WrongField(f"{name}[{place}]", f"{quoted(token)} is no token")
    return tokens


def _dialogue(record: Mapping[str, Any], schema: Schema) -> Any:
    name = schema.name("messages")
    messages = _messages(_needed(record, name), name, schema)
    if not any(message["role"] == "assistant" for message in messages):
        raise WrongField(name, "no message is by the assistant")
    return messages


def _messages(value: Any, name: str, schema: Schema) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise WrongField(name, f"{quoted(value)} where a list of messages belongs")
    for place, message in enumerate(value):
        where = f"{name}[{place}]"
        if not isinstance(message, dict):
            raise WrongField(where, f"{quoted(message)} where a message with role and content belongs")
        role = _needed_in(message, "role", where)
        if role not in schema.roles:
            raise WrongField(f"{where}.role", f"{quoted(role)} isn't one of {', '.join(schema.roles)}")
        if role == "system" and place:
            raise WrongField(f"{where}.role", "a system message that isn't the first")
        if not message.get("tool_calls"):
            _text(_needed_in(message, "content", where), f"{where}.content")
    return value


def _needed_in(message: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in message:
        raise WrongField(f"{where}.{name}", "is missing")
    return message[name]


def _preference(record: Mapping[str, Any], schema: Schema) -> Any:
    """The prompt, and both responses in an order that doesn't depend on which was chosen."""
    prompt_name = schema.name("prompt")
    prompt = record.get(prompt_name)
    if prompt is not None:
        _text_or_messages(prompt, prompt_name, schema)
    chosen, rejected = (_response(record, schema, name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise WrongField(schema.name("rejected"), "the same as what was chosen")
    return {"prompt": prompt, "responses": [json.loads(text) for text in sorted((chosen, rejected))]}


def _response(record: Mapping[str, Any], schema: Schema, ours: str) -> str:
    name = schema.name(ours)
    value = _text_or_messages(_needed(record, name), name, schema)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _text_or_messages(value: Any, name: str, schema: Schema) -> Any:
    return _messages(value, name, schema) if isinstance(value, list) else _text(value, name)


_CONTENTS: dict[str, Callable[[Mapping[str, Any], Schema], Any]] = {
    "classification": _classified,
    "tags": _tokens,
    "dialogues": _dialogue,
    "preferences": _preference,
}


# ----------------------------------------------------------------------------------------------------------- labels


def _labels_of(record: Mapping[str, Any], schema: Schema, content: Any) -> tuple[str, ...]:
    if schema.kind == "preferences":
        chosen, rejected = (_response(record, schema, name) for name in ("chosen", "rejected"))
        return (SORTED_FIRST if chosen < rejected else SORTED_SECOND,)
    name = schema.name("tags" if schema.kind == "tags" else "label")
    if schema.kind == "dialogues" and record.get(name) is None:
        return ()
    return _checked_labels(_needed(record, name), schema, content, name)


def _checked_labels(value: Any, schema: Schema, content: Any, name: str) -> tuple[str, ...]:
    """One label, or with tags one for each token."""
    if schema.kind != "tags":
        return (_label(value, schema, name),)
    if not isinstance(value, list):
        raise WrongField(name, f"{quoted(value)} where a list of tags belongs")
    if len(value) != len(content):
        raise WrongField(name, f"{len(value):,} of them for {len(content):,} tokens")
    tags = tuple(_label(tag, schema, f"{name}[{place}]") for place, tag in enumerate(value))
    if schema.scheme == "bio":
        _check_bio(tags, name)
    return tags


def _label(value: Any, schema: Schema, name: str) -> str:
    label = label_text(value)
    if label is None:
        raise WrongField(name, f"{quoted(value)} is no label: a text, a number, true or false")
    known = schema.labels
    if schema.scheme == "bio":
        prefix, _, entity = label.partition("-")
        if label != OUTSIDE and (prefix not in ("B", "I") or not entity):
            raise WrongField(name, f"{quoted(value)} is neither O, B-TYPE nor I-TYPE")
        label_in_schema = label == OUTSIDE or known is None or entity in known
    else:
        label_in_schema = known is None or label in known
    if not label_in_schema:
        raise WrongField(name, f"{quoted(value)} isn't one of {', '.join(known or ())}")
    return label


def label_text(value: Any) -> str | None:
    """A label as a text; None if it is none."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return None


def _check_bio(tags: tuple[str, ...], name: str) -> None:
    for place, (tag, before) in enumerate(zip(tags, (OUTSIDE, *tags), strict=False)):
        if tag.startswith("I-") and before[2:] != tag[2:]:
            raise WrongField(f"{name}[{place}]", f"{quoted(tag)} goes on with what {quoted(before)} didn't begin")


def check_schema(schema: Schema) -> None:
    """Malformed where a schema can't be meant."""
    if schema.kind not in KINDS:
        raise Malformed(f"kind={quoted(schema.kind)}: choose one of {', '.join(KINDS)}")
    if schema.scheme not in SCHEMES:
        raise Malformed(f"scheme={quoted(schema.scheme)}: choose one of {', '.join(SCHEMES)}")
    if schema.scheme == "bio" and schema.kind != "tags":
        raise Malformed(f"scheme=bio is for tags, not for {schema.kind}")
    if schema.labels is not None and schema.kind == "preferences":
        raise Malformed("labels: preferences have none")
    unknown = set(schema.names) - set(NAMES)
    if unknown:
        raise Malformed(f"{quoted(min(unknown))} is no field; there are {', '.join(NAMES)}")
